"""A language model's bytes, inspected, with what Keras wrote beside them."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from kdtf.export import checks
from kdtf.export.compact import compact
from kdtf.export.embeddings import rewrite_embeddings
from kdtf.export.errors import ExportError
from kdtf.export.graph import constants_read_by
from kdtf.export.interface import Interface
from kdtf.export.language_model.tracing import CacheShape
from kdtf.export.language_model.tracing import to_float_file
from kdtf.export.language_model.verification import Written
from kdtf.export.language_model.verification import written_by
from kdtf.export.mixed import coarsest_mode
from kdtf.export.mixed import mixed_kernels
from kdtf.export.mixed import to_mixed
from kdtf.export.plan import Plan
from kdtf.export.precision import computing_in_float32
from kdtf.export.quantizer import Dynamic
from kdtf.export.quantizer import to_dynamic
from kdtf.export.targets import MODES
from kdtf.export.targets import TARGETS
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import describe
from kdtf.transforms.deployment import Deployment
from kdtf.transforms.deployment import deployed

__all__ = ["Built", "build_language_model"]

# Of all checks those that know more signatures than one. (A position table
# gives SLICE a free dimension, which LiteRT resolves.)
_CHECKS = (
    checks.check_variables_are_frozen,
    checks.check_weights_are_present,
    checks.check_operators_are_builtin,
    checks.check_weights_are_quantized,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """A converted language model, not yet run.

    Args:
        content: The bytes of the `.tflite`.
        plan: How it was made.
        description: What stands in it.
        written: What the Keras model wrote after the prompts.
        notes: What came out other than asked.
    """

    content: bytes
    plan: Plan
    description: FileDescription
    written: list[Written]
    notes: tuple[str, ...]


def build_language_model(
    model: Any,
    caches: CacheShape,
    prefill_lengths: tuple[int, ...],
    *,
    quantize: str | Mapping[Any, str | None] | None,
    prompts: list[list[int]],
) -> Built:
    """Returns the converted model.

    Args:
        model: A keras-nlp `CausalLM`.
        caches: Its caches.
        prefill_lengths: Tokens that one call may take, beside 1.
        quantize: How to store the weights.
        prompts: What Keras shall continue, for comparison.

    Raises:
        ValueError: The model was quantized for something else.
        ExportError: A step failed, or the file failed a check.
    """
    with deployed(model) as deployment:
        plan = _plan(model, quantize, deployment)
        with computing_in_float32(model):
            written = written_by(model, prompts, max_length=caches.max_length)
            floats, kernels = to_float_file(model, caches, prefill_lengths)
    made = _stored(floats, plan)
    num_bytes = len(floats)
    # Half a gigabyte for a small model.
    del floats
    description = _checked(made, plan, kernels)
    _check_size(description, model.count_params(), num_bytes)
    said = plan.deployment.notes if plan.deployment else ()
    return Built(
        content=made.content,
        plan=plan,
        description=description,
        written=written,
        notes=said + made.notes,
    )


def _plan(model: Any, quantize: Any, deployment: Deployment | None) -> Plan:
    if deployment is not None and deployment.quantize != quantize:
        raise ValueError(
            "`quantize` must be what the model was quantized for, which is "
            f"{deployment.quantize!r}. Received: quantize={quantize!r}. Say "
            "so, or call `kdtf.strip(model)` first."
        )
    return Plan(
        target=TARGETS["android"],
        mode=coarsest_mode(quantize),
        deployment=deployment,
        kernels=mixed_kernels(model, quantize),
    )


def _stored(floats: bytes, plan: Plan) -> Dynamic:
    if plan.mode is None:
        return Dynamic(content=floats)
    limits = MODES[plan.mode]
    is_free = plan.deployment is None
    rewritten = rewrite_embeddings(floats)[0]
    if plan.kernels is not None:
        made = to_mixed(rewritten, plan.kernels)
    else:
        made = to_dynamic(
            rewritten,
            # What a quantized model did not select, it does not squeeze.
            num_bits=(limits.num_bits or 8) if is_free else 8,
            block_size=limits.block_size if is_free else None,
            grids=plan.grids,
        )
    # Each signature has the zero points of each weight: all zeros.
    content = compact(made.content, drop_names=False)
    return dataclasses.replace(made, content=content)


def _checked(
    made: Dynamic, plan: Plan, kernels: dict[str, int]
) -> FileDescription:
    with tempfile.TemporaryDirectory(prefix="kdtf-lm-") as folder:
        file = pathlib.Path(folder, "model.tflite")
        file.write_bytes(made.content)
        description = describe(file)
        weights = constants_read_by(checks.WEIGHT_OPERATORS, description)
    evidence = checks.Evidence(
        description=description,
        baseline=description,
        target=plan.target,
        mode=plan.mode,
        interface=Interface(inputs=(), pack=tuple),
        reference={},
        kernels=kernels,
        weights=weights,
        kept_float=made.kept_float,
    )
    problems = [problem for check in _CHECKS if (problem := check(evidence))]
    if problems:
        listed = "\n".join(f"- {problem}." for problem in problems)
        raise ExportError(
            "The exported file must compute what the Keras model computes. "
            f"Received:\n{listed}\nNo file was left."
        )
    return description


def _check_size(
    description: FileDescription, num_parameters: int, float_bytes: int
) -> None:
    """Finds weights that are stored for each signature, or left in float."""
    found, size = description.num_parameters, description.size_bytes
    if found > 1.1 * num_parameters + 1024 or size > float_bytes:
        raise ExportError(
            "The file must hold each weight once, in no more bytes than in "
            f"float32. Received: {found} weights of a model of "
            f"{num_parameters}, {size} bytes instead of {float_bytes}. No "
            "file was left; try `quantize=None`."
        )
