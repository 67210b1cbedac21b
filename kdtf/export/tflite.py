"""The front door: a Keras model in, a verified `.tflite` file out."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from kdtf.export.build import Build
from kdtf.export.build import build_file
from kdtf.export.checks import float_operators
from kdtf.export.inputs import Inputs
from kdtf.export.inputs import read_inputs
from kdtf.export.inputs import reference_outputs
from kdtf.export.interface import check_built
from kdtf.export.interface import check_size
from kdtf.export.metadata import Metadata
from kdtf.export.metadata import attach
from kdtf.export.metadata import describe_model
from kdtf.export.mixed import coarsest_mode
from kdtf.export.plan import plan_of
from kdtf.export.precision import computing_in_float32
from kdtf.export.result import ExportResult
from kdtf.export.targets import Target
from kdtf.export.targets import get_mode
from kdtf.export.targets import get_target
from kdtf.export.verify import Verdict
from kdtf.export.verify import verify
from kdtf.files import atomic_path
from kdtf.transforms.deployment import deployed

# Those whose sparse weights LiteRT computes right.
SPARSE_MODES = (None, "int8")


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    target: str = "android",
    quantize: str | Mapping[Any, str | None] | None = None,
    representative_data: Any = None,
    verify_data: Any = None,
    sparse: bool = False,
    metadata: Metadata | None = None,
) -> ExportResult:
    """Writes `model` as a `.tflite` file and returns what verifying it found.

    The file has a batch of 1, fixed shapes, builtin operators only and one
    signature, "serving_default", with the model's own input names (dict keys,
    `keras.Input(name=...)`) and output names (dict keys, else "output_0",
    ...). It is written under another name first, inspected, run by LiteRT in
    a fresh process and compared with the Keras model; only a file that passes
    takes the name `path`.

    Args:
        model: A built model of Keras 3 or `tf_keras`: Sequential, Functional,
            subclassed, or from keras-nlp.
        path: Where to write; must end in ".tflite".
        target: "android" (builtin operators), "iot" (int8 throughout, also
            inputs and outputs; operators of TensorFlow Lite Micro) or
            "float" (a reference file, not quantized). Defaults to "android".
        quantize: None (float32; int8 for "iot"; for a model that kdtf
            quantized, what it was quantized for), "float16", "dynamic_int8"
            (int8 weights, float activations: for transformers), "int8" (int8
            weights and activations: for convolutional networks), "int4"
            (int4 weights, float activations: half of "dynamic_int8", and
            noisier: quantize the model for it first), or "int4_block32",
            "int4_block64", "int4_block128", "int4_block256" (one scale for so
            many weights; closer, and slower, than "int4"). Or a mapping of
            path patterns (or layers) to one of those with float activations,
            or to None for float32: for each kernel the first that matches
            decides, `{"*embeddings": "dynamic_int8", "*": "int4_block32"}`.
            `kdtf.sensitivity(...).mixed(max_bytes=...)` makes such ones.
            Defaults to None.
        representative_data: Typical inputs, needed for "int8": ranges are
            measured on at most 300 of them. A model quantized for "int8" has
            its ranges; there data adds those of operators without. An array,
            a tuple or dict of arrays as the model takes them, or a
            `tf.data.Dataset` of batches `x`, `(x, y)` or `(x, y, weight)`.
        verify_data: Inputs to compare on, in the same forms; at most 100 are
            used. Defaults to `representative_data`, else to random ones.
        sparse: Whether weights of one-row Dense and EinsumDense layers that
            are zero in blocks along the inputs (1x4 for None, 1x16 for
            "int8") are stored sparse, for LiteRT's own CPU kernels. The file
            shrinks; float gets faster from about 80% of zero blocks on, int8
            often slower (the result warns). Defaults to False.
        metadata: What the file says of itself: `Metadata` (author, license),
            `ImageMetadata` or `TextMetadata`, with which MediaPipe's
            ImageClassifier and TextClassifier run the file as it is. Labels
            and vocabulary travel in the file. Defaults to none.

    Returns:
        Sizes, names, operators and errors of the file.

    Raises:
        ExportError: The model does not convert, no weight can be stored
            sparse, a quantized kernel cannot keep its values, or the file
            failed a check; no file is left and an older one is untouched.
        ValueError: An argument is unknown, missing, does not fit the model
            (`metadata` too), or is not what it was quantized for.
        TypeError: `model` is no Keras model.

    Example:
        >>> import keras, numpy, os, tempfile
        >>> from kdtf.litert import Runner
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.set_weights([numpy.array([[2.0], [3.0]]), numpy.array([0.5])])
        >>> path = os.path.join(tempfile.mkdtemp(), "line.tflite")
        >>> result = export_tflite(model, path)
        >>> result.operators, result.max_error < 1e-6
        ({'FULLY_CONNECTED': 1}, True)
        >>> Runner(path)(numpy.array([[1.0, 1.0]]))["output_0"].tolist()
        [[5.5]]
    """
    chosen = get_target(target)
    asked = get_mode(coarsest_mode(quantize), chosen)
    if sparse:
        _check_sparse(asked, chosen)
    _check_path(path)
    check_built(model)
    check_size(model)
    with deployed(model) as deployment:
        plan = plan_of(
            model, target=chosen, quantize=quantize, deployment=deployment
        )
        if sparse and plan.mode != asked:
            _check_sparse(plan.mode, chosen)
        inputs = read_inputs(
            model,
            needs_ranges=plan.mode == "int8" and not plan.has_ranges,
            representative_data=representative_data,
            verify_data=verify_data,
        )
        with computing_in_float32(model) as policies:
            reference = reference_outputs(model, inputs)
            described = None
            if metadata is not None:
                described = describe_model(
                    metadata,
                    model,
                    inputs=inputs.interface.inputs,
                    outputs=reference,
                    integer_only=chosen.integer_only,
                )
            build = build_file(model, inputs, plan=plan, sparse=sparse)
    if described:
        content = attach(build.content, described)
        build = dataclasses.replace(build, content=content)
    with atomic_path(path) as temporary:
        verdict = verify(
            temporary, build, samples=inputs.verification, reference=reference
        )
    result = _result(path, build, inputs, verdict, policies)
    if described:
        result = dataclasses.replace(result, metadata=described.metadata)
    return result


def _check_sparse(mode: str | None, target: Target) -> None:
    if target.operators is not None:
        raise ValueError(
            "`sparse=True` needs kernels that TensorFlow Lite Micro does not "
            f"have. Received: target={target.name!r}. Leave `sparse` out, or "
            "export for target='android'."
        )
    if mode not in SPARSE_MODES:
        raise ValueError(
            f"`sparse=True` goes with `quantize` in {list(SPARSE_MODES)}: "
            "LiteRT has no right sparse kernels for others (dynamic int8 "
            f"gives wrong outputs). Received: quantize={mode!r}. Leave "
            "`sparse` out: zeros shrink the compressed file in any case."
        )


def _check_path(path: str | os.PathLike[str]) -> None:
    if pathlib.Path(path).suffix != ".tflite":
        raise ValueError(
            f"`path` must end in '.tflite'. Received: path={os.fspath(path)!r}."
        )


def _result(
    path: str | os.PathLike[str],
    build: Build,
    inputs: Inputs,
    verdict: Verdict,
    policies: set[str],
) -> ExportResult:
    description, parity = verdict.description, verdict.parity
    computed = tuple(
        f"computed in float32; the model's own policy is {policy!r}"
        for policy in sorted(policies)
    )
    deployment = build.plan.deployment
    said = deployment.notes if deployment else ()
    return ExportResult(
        path=pathlib.Path(path),
        size_bytes=description.size_bytes,
        gzip_size_bytes=description.gzip_size_bytes,
        target=build.plan.target.name,
        quantize=build.plan.mode,
        signatures=description.signatures,
        operators=description.operators,
        float_operators=float_operators(description),
        float_reasons=build.float_reasons,
        per_sample_error=parity.per_sample_error,
        max_error=parity.max_error,
        mean_error=parity.mean_error,
        sqnr_db=min(parity.sqnr_db.values()),
        argmax_agreement=parity.argmax_agreement,
        within_one_step=parity.within_one_step,
        verified_on=inputs.verification.source,
        warnings=computed + said + build.notes + verdict.warnings,
        sparse_tensors=build.sparse.tensors if build.sparse else (),
        left_dense=build.sparse.left_dense if build.sparse else {},
    )
