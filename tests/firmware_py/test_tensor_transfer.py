"""A tensor written over the link is where its layout says, nowhere else, and can be read back."""

import numpy as np
import pytest
from device_model import DeviceModel, ModelTransport
from hypothesis import given, settings
from hypothesis import strategies as st

from popshift.firmware_py import transfer
from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.protocol import Link
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig

CONFIG = AcceleratorConfig(name="test", rows=12, cols=4, activation_depth=4096, weight_depth=64)


@st.composite
def layouts(draw: st.DrawFn) -> TensorLayout:
    """Paddings, copies, several planes, vectors."""
    vector = draw(st.booleans())
    channels = draw(st.integers(1, 60 if vector else 14))
    height, width = (1, 1) if vector else draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    period = draw(st.integers(1, 12))
    copies = draw(st.integers(1, 12 // period))
    row_pitch = width + draw(st.integers(0, 3))
    plane_step = (height - 1) * row_pitch + width + draw(st.sampled_from([0, 0, 1, 30]))
    return TensorLayout(
        name="t",
        shape=(channels, height, width),
        scale=1.0,
        zero_point=draw(st.integers(-128, 127)),
        base=draw(st.integers(0, 50)),
        row_pitch=row_pitch,
        plane_step=plane_step,
        period=period,
        copies=copies,
    )


def expected_memory(layout: TensorLayout, tensor: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Pixel by pixel, from the definition in `popshift.firmware_py.layout`."""
    memory = before.copy()
    channels, height, width = layout.shape
    for c in range(channels):
        for bank in layout.banks(c):
            for y in range(height):
                for x in range(layout.row_pitch if y < height - 1 else width):
                    value = tensor[c, y, x] if x < width else layout.zero_point
                    memory[bank, layout.word(c, y, 0) + x] = value
    return memory


@settings(max_examples=120, deadline=None)
@given(layouts(), st.integers(0, 2**32 - 1))
def test_write_and_read_back(layout: TensorLayout, seed: int) -> None:
    source = np.random.default_rng(seed)
    tensor = source.integers(-128, 128, layout.shape, np.int8)
    device = DeviceModel(CONFIG)
    device.activations[:] = source.integers(-128, 128, device.activations.shape, np.int8)
    expected = expected_memory(layout, tensor, device.activations)
    local = device.activations.copy()

    layout.write(local, tensor)
    np.testing.assert_array_equal(local, expected)
    link = Link(ModelTransport(device))
    link.open()
    link.submit_many(transfer.tensor_writes(CONFIG, layout, tensor))
    np.testing.assert_array_equal(device.activations, expected)
    np.testing.assert_array_equal(layout.read(device.activations), tensor, strict=True)

    reads = transfer.tensor_reads(layout)
    answers = link.submit_many([read.request for read in reads])
    np.testing.assert_array_equal(transfer.assemble_tensor(layout, reads, answers), tensor, strict=True)


def frames(shape: tuple[int, int, int], period: int, *, gap: int = 0, pitch: int = 0) -> tuple[int, int]:
    """Requests that a write and a read take."""
    pitch = pitch or shape[2]
    layout = TensorLayout(
        name="t",
        shape=shape,
        scale=1.0,
        zero_point=0,
        base=0,
        row_pitch=pitch,
        plane_step=(shape[1] - 1) * pitch + shape[2] + gap,
        period=period,
        copies=1,
    )
    writes = list(transfer.tensor_writes(CONFIG, layout, np.zeros(shape, np.int8)))
    return len(writes), len(transfer.tensor_reads(layout))


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((64, 1, 1), {"period": 12}, (12, 12)),  # a vector: one request per bank, not per feature
        ((3, 8, 8), {"period": 3}, (3, 3)),
        ((3, 8, 8), {"period": 3, "pitch": 10}, (3, 3)),  # padding between the rows travels along
        (
            (24, 4, 4),
            {"period": 12, "gap": 5},
            (24, 12),
        ),  # padding between planes is read over, not written over
        ((24, 4, 4), {"period": 12, "gap": 100}, (24, 24)),
        ((1, 40, 60), {"period": 1}, (3, 3)),  # 2400 bytes
    ],
)
def test_few_frames(shape: tuple[int, int, int], options: dict[str, int], expected: tuple[int, int]) -> None:
    assert frames(shape, **options) == expected


def test_memory_images_travel_in_whole_words() -> None:
    words = np.random.default_rng(3).integers(0, 256, (500, 7), np.uint8)
    requests = list(transfer.memory_writes(packet.Space.WEIGHT, words))
    assert [len(payload) for _, _, payload in requests] == [146 * 7] * 3 + [62 * 7]
    assert [address & 0xFFFFFF for _, address, _ in requests] == [0, 146, 292, 438]
    assert b"".join(payload for _, _, payload in requests) == words.tobytes()
    assert list(transfer.memory_writes(packet.Space.WEIGHT, words[:0])) == []
