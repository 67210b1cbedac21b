"""LiteRT's signatures over buffers that stay where they are."""

from typing import Any

__all__ = ["DECODE", "Call", "load_model"]

DECODE = "decode"


class Call:
    """One signature, with buffers for what goes in and comes out.

    Args:
        model: What `load_model` gave.
        key: The signature. Only that of `decode` has buffers for the caches:
            they serve all.

    Attributes:
        cache_names: Names of the caches.
        inputs: Buffers by name.
        outputs: Buffers by name.
        shapes: Of inputs and outputs, by name.
    """

    def __init__(self, model: Any, key: str) -> None:
        """Makes the buffers."""
        index = model.get_signature_index(key)
        signature = model.get_signature_by_index(index)
        self._run = model.run_by_index
        self._index = index
        self._names = signature["inputs"], signature["outputs"]
        self.cache_names = [n for n in self._names[0] if n.startswith("kv_")]
        self.inputs = dict(
            zip(self._names[0], model.create_input_buffers(index), strict=True)
        )
        self.outputs = dict(
            zip(self._names[1], model.create_output_buffers(index), strict=True)
        )
        details = {
            **model.get_output_tensor_details(key),
            **model.get_input_tensor_details(key),
        }
        self.shapes = {name: tuple(d["shape"]) for name, d in details.items()}
        if key != DECODE:
            for name in self.cache_names:
                del self.inputs[name], self.outputs[name]

    def run(self, caches: dict[str, Any], filled: dict[str, Any]) -> None:
        """Reads `caches`, and writes `filled`.

        Args:
            caches: Buffers by name.
            filled: Others for the same.
        """
        inputs, outputs = {**self.inputs, **caches}, {**self.outputs, **filled}
        self._run(
            self._index,
            [inputs[name] for name in self._names[0]],
            [outputs[name] for name in self._names[1]],
        )


def load_model(path: str, num_threads: int) -> Any:
    """Returns LiteRT's `CompiledModel` of a file.

    Not its `Interpreter`: that copies all caches out and in for each token.

    Args:
        path: A `.tflite` file.
        num_threads: CPU threads.

    Raises:
        ValueError: The runtime refuses the file.
    """
    from ai_edge_litert import options
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions

    if num_threads < 1:
        raise ValueError(
            "`num_threads` must be at least 1. Received: "
            f"num_threads={num_threads}."
        )
    cpu = CpuOptions(num_threads=num_threads)
    try:
        return CompiledModel.from_file(
            path, options=options.Options(cpu_options=cpu)
        )
    except RuntimeError as error:
        raise ValueError(
            "LiteRT must be able to load the file. Received: "
            f"path={path!r}, refused with: {error}"
        ) from error
