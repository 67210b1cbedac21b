"""From a keras-nlp model to a float file with prefill and decode.

Clients call `prefill_<S>` with the S tokens of a prompt's part and `decode`
with one token; both take the caches and give them back, filled. The names are
LiteRT-LM's.
"""

import dataclasses
import inspect
import tempfile
from typing import Any

import tensorflow as tf

from kdtf.export import converter
from kdtf.export.errors import ExportError
from kdtf.export.language_model.caches import Rows
from kdtf.export.language_model.caches import Stack
from kdtf.export.language_model.caches import caches_in_place

__all__ = ["CacheShape", "cache_shape", "to_float_file"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheShape:
    """The caches of a model: one of keys and one of values in each layer."""

    num_layers: int
    num_heads: int
    max_length: int
    head_dim: int

    @property
    def names(self) -> list[str]:
        """The names that LiteRT-LM knows them by."""
        layers = range(self.num_layers)
        return [f"kv_cache_{part}_{i}" for i in layers for part in "kv"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of each cache: the client reads the length from dimension 2."""
        return (1, self.num_heads, self.max_length, self.head_dim)


def cache_shape(model: Any, max_length: int) -> CacheShape:
    """Returns the caches that `model` asks for.

    Args:
        model: A keras-nlp `CausalLM`.
        max_length: Tokens they shall hold.

    Raises:
        TypeError: The model does not generate with a cache.
    """
    call = getattr(model, "call_with_cache", None)
    names = list(inspect.signature(call).parameters) if call else []
    wanted = ["token_ids", "cache", "cache_update_index"]
    shape = None
    if names == wanted and hasattr(model, "_build_cache"):
        # Private, but each family knows its heads by other names.
        build = tf.function(lambda ids: model._build_cache(ids)[1])
        spec = tf.TensorSpec((1, max_length), tf.int32)
        shape = build.get_concrete_function(spec).output_shapes
    if not isinstance(shape, tf.TensorShape) or shape.rank != 6:
        raise TypeError(
            "`model` must be a keras-nlp CausalLM that generates with a cache "
            "of keys and values: GPT-2, Llama, Mistral, Qwen, Gemma. Received: "
            f"{type(model).__qualname__}. Export others with `export_tflite`."
        )
    _, num_layers, _, _, num_heads, head_dim = shape.as_list()
    return CacheShape(
        num_layers=num_layers,
        num_heads=num_heads,
        max_length=max_length,
        head_dim=head_dim,
    )


def to_float_file(
    model: Any, caches: CacheShape, prefill_lengths: tuple[int, ...]
) -> tuple[bytes, dict[str, int]]:
    """Returns the bytes of the float32 file, and the kernels it must hold.

    Args:
        model: A keras-nlp `CausalLM`.
        caches: Its caches.
        prefill_lengths: Tokens that one call may take, beside 1.

    Raises:
        ExportError: TensorFlow could not trace or convert it.
    """
    with tempfile.TemporaryDirectory(prefix="kdtf-export-") as folder:
        with converter.failures("saving"):
            functions = {
                "decode": _function(model, caches, 1, logits=True),
                **{
                    f"prefill_{length}": _function(
                        model, caches, length, logits=False
                    )
                    for length in prefill_lengths
                },
            }
            kernels = _save(functions, folder)
        with converter.failures("converting"):
            convert = tf.lite.TFLiteConverter.from_saved_model(
                folder, signature_keys=list(functions)
            )
            converter.set_private(convert, converter.NO_INPUT_SCALES, True)
            content = convert.convert()
    if not content:
        raise ExportError(
            "TFLiteConverter must give a file. Received: nothing. The model "
            "holds an operation it cannot write."
        )
    return bytes(content), kernels


def _function(
    model: Any, caches: CacheShape, length: int, *, logits: bool
) -> Any:
    def run(**inputs: Any) -> dict[str, Any]:
        parts = [Rows(tensor=inputs[name]) for name in caches.names]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        stack = Stack(parts=tuple(Stack(parts=pair) for pair in pairs))
        with caches_in_place():
            scores, _, filled = model.call_with_cache(
                inputs["tokens"], stack, inputs["input_pos"][0]
            )
        outputs = dict(zip(caches.names, _flat(filled), strict=True))
        return {"logits": scores, **outputs} if logits else outputs

    # Given by keyword: only so the names outlive the conversion.
    specs = {
        "tokens": tf.TensorSpec((1, length), tf.int32, "tokens"),
        "input_pos": tf.TensorSpec((length,), tf.int32, "input_pos"),
        **{
            name: tf.TensorSpec(caches.shape, tf.float32, name)
            for name in caches.names
        },
    }
    # Keras's own code needs no AutoGraph, which would rewrite our closures.
    return tf.function(run, autograph=False).get_concrete_function(**specs)


def _flat(filled: Any) -> list[Any]:
    """Gives keys and values by layer, whatever the model made of them."""
    if isinstance(filled, Stack):
        parts = [part for pair in filled.parts for part in _pair(pair)]
        if all(isinstance(part, Rows) for part in parts):
            return [part.tensor for part in parts]
    layers = tf.unstack(tf.convert_to_tensor(filled), axis=1)
    parts = [part for pair in layers for part in tf.unstack(pair, axis=1)]
    return [tf.transpose(part, [0, 2, 1, 3]) for part in parts]


def _pair(pair: Any) -> tuple[Any, ...]:
    return pair.parts if isinstance(pair, Stack) else (pair,)


def _save(functions: dict[str, Any], folder: str) -> dict[str, int]:
    """Saves with a flat list of variables: others are lost on the way."""
    variables = {
        id(variable): variable
        for function in functions.values()
        for variable in function.graph.variables
    }
    module = tf.Module()
    module.flat_variables = list(variables.values())
    tf.saved_model.save(module, folder, signatures=functions)
    return converter.kernel_sizes(variables.values())
