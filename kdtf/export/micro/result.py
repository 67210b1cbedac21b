"""What an export for a microcontroller gave, in numbers and in words."""

import dataclasses
import pathlib

from kdtf.export.micro.agreement import Agreement
from kdtf.export.result import ExportResult
from kdtf.flatbuffer import TensorSpec

__all__ = ["MicrocontrollerResult"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicrocontrollerResult:
    """A folder for a microcontroller's program; prints as a summary.

    Args:
        directory: The folder.
        path: The `.tflite` file in it.
        files: The names of all files in it.
        size_bytes: What the model takes of the flash, without the
            interpreter's own code.
        arena_bytes: The smallest arena, measured with TensorFlow Lite Micro's
            portable kernels on a 64-bit computer.
        margin_bytes: What `model_settings.h` reserves beside it.
        operators: Name to count.
        inputs: In the order of the interpreter's inputs.
        outputs: In the order of its outputs.
        agreement: How far its integers are from LiteRT's.
        verified_on: Which samples that comes from.
        export: What the export of the Keras model found; None if a `.tflite`
            file was given.
    """

    directory: pathlib.Path
    path: pathlib.Path
    files: tuple[str, ...]
    size_bytes: int
    arena_bytes: int
    margin_bytes: int
    operators: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    agreement: Agreement
    verified_on: str
    export: ExportResult | None = None

    @property
    def reserved_bytes(self) -> int:
        """What the arena takes of the RAM, margin included."""
        return self.arena_bytes + self.margin_bytes

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        ranked = sorted(self.operators.items(), key=lambda i: (-i[1], i[0]))
        counts = ", ".join(f"{name} x{count}" for name, count in ranked)
        lines = [
            f"{self.directory}: {', '.join(self.files)}",
            f"  flash {self.size_bytes:,} bytes (the interpreter's own code "
            "not counted)",
            f"  RAM {self.reserved_bytes:,} bytes: arena {self.arena_bytes:,} "
            f"measured on this computer, {self.margin_bytes:,} of margin",
            *(f"  input {_text(spec)}" for spec in self.inputs),
            *(f"  output {_text(spec)}" for spec in self.outputs),
            f"  operators: {counts}",
            f"  TensorFlow Lite Micro against LiteRT on {self.verified_on}: "
            f"{self._quality()}",
        ]
        if self.export is not None:
            # Its first line is the temporary path.
            lines += ["  the file itself:"]
            lines += [f"  {line}" for line in str(self.export).splitlines()[1:]]
        return "\n".join(lines)

    def _quality(self) -> str:
        found = self.agreement
        text = (
            f"{found.within_three_steps:.1%} within 3 steps, largest "
            f"{found.max_steps} (LiteRT's own kernels differ by up to "
            f"{found.spread_steps})"
        )
        if found.argmax_agreement is not None:
            text += f", same argmax {found.argmax_agreement:.1%}"
        return text


def _text(spec: TensorSpec) -> str:
    text = f"{spec.name}: {spec.dtype} {list(spec.shape)}"
    if spec.scale is None:
        return text
    return f"{text}, {spec.scale:.6g} x (integer - {spec.zero_point})"
