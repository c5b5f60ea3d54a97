"""Checkpoints of a training run: what it takes to go on as if it had never stopped."""

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from popshift.hw.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """Everything that a training changes.

    Attributes
    ----------
    parts: modules, optimisers and schedules by name, each with ``state_dict`` and ``load_state_dict``.
    generator: of everything that is drawn.
    losses: mean loss of every epoch done.
    """

    parts: dict[str, Any]
    generator: torch.Generator
    losses: list[float]

    def save(self, path: Path, options: Any) -> None:
        """Write the state after an epoch; an older file stays whole until the new one is.

        Raises
        ------
        InputError: the file cannot be written.
        """
        contents = {
            "options": asdict(options),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "generator": self.generator.get_state(),
            "losses": self.losses,
        }
        new = path.with_name(f"{path.name}.new")
        try:
            torch.save(contents, new)
            os.replace(new, path)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            remedy = "choose a folder that can be written"
            raise InputError(
                f"cannot write the checkpoint ({reason})", where=str(path), remedy=remedy
            ) from error

    def load(self, path: Path, options: Any) -> None:
        """Go on where a checkpoint stopped.

        Raises
        ------
        InputError: the file is not a checkpoint, or one of another training.
        """
        remedy = "delete it to start anew, or name another file"
        try:
            contents = torch.load(path, weights_only=True)
            found = contents["options"]
        except (
            OSError,
            RuntimeError,
            ValueError,
            LookupError,
            TypeError,
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            raise InputError("not a checkpoint, or damaged", where=str(path), remedy=remedy) from error
        if found != asdict(options):
            wrong = [name for name, value in asdict(options).items() if found.get(name) != value]
            what = f"the checkpoint is of a training with other {', '.join(wrong) or 'options'}"
            raise InputError(what, where=str(path), remedy=remedy)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(contents["parts"][name])
        except (RuntimeError, LookupError, ValueError) as error:
            what = "the checkpoint is of another network"
            raise InputError(what, where=str(path), remedy=remedy) from error
        self.generator.set_state(contents["generator"])
        self.losses[:] = contents["losses"]
