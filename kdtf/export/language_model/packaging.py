"""The file around a language model: what else a client needs, packed in."""

import importlib.util
import io
import os
import pathlib
import tempfile
import zipfile
from typing import Any

from kdtf.export.language_model.settings import Settings
from kdtf.export.language_model.text_codec import TextCodec

__all__ = [
    "SETTINGS",
    "read_package",
    "require_builder",
    "with_files",
    "write_bundle",
]

SETTINGS = "language_model.json"


def with_files(
    content: bytes, settings: Settings, codec: TextCodec | None
) -> bytes:
    """Returns a `.tflite` with the settings and the tokenizer appended.

    As a zip archive behind the model, which is where TensorFlow Lite keeps a
    model's files: runtimes do not look there, and `unzip` does.

    Args:
        content: The `.tflite` file.
        settings: What clients must know.
        codec: The tokenizer, if it travels along.
    """
    stream = io.BytesIO(content)
    stream.seek(0, os.SEEK_END)
    # Offsets count from the start of the whole file; and always the same
    # bytes for the same model, whatever the time.
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(zipfile.ZipInfo(SETTINGS), settings.to_json())
        if codec is not None:
            entry = zipfile.ZipInfo(codec.name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, codec.content)
    return stream.getvalue()


def read_package(
    path: str | os.PathLike[str],
) -> tuple[Settings, TextCodec | None]:
    """Returns the settings and the tokenizer of an exported model.

    Raises:
        ValueError: The file was not written by `export_language_model`.
        FileNotFoundError: There is no such file.
    """
    if pathlib.Path(path).suffix == ".litertlm":
        raise ValueError(
            "kdtf runs a language model from its .tflite file. Received: "
            f"path={os.fspath(path)!r}. Run the bundle with LiteRT-LM, or "
            "export to a path that ends in '.tflite'."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            settings = Settings.from_json(archive.read(SETTINGS).decode())
            name = settings.tokenizer
            codec = TextCodec(archive.read(name), name) if name else None
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            "A language model must have its settings in its file. Received: "
            f"path={os.fspath(path)!r} without them. Write it with "
            "`kdtf.export_language_model(model, path)`."
        ) from error
    return settings, codec


def require_builder() -> None:
    """Checks that bundles can be packed.

    Raises:
        ValueError: The package for it is not installed.
    """
    if importlib.util.find_spec("litert_lm_builder") is None:
        raise ValueError(
            "A '.litertlm' bundle is packed by litert-lm-builder. Received: "
            "a path that ends so, without that package. Run "
            "`pip install \"kdtf[deploy]\"`, or export to a '.tflite'."
        )


def write_bundle(
    path: pathlib.Path, content: bytes, settings: Settings, codec: TextCodec
) -> None:
    """Writes the `.litertlm` bundle that LiteRT-LM runs.

    Args:
        path: Where to.
        content: The `.tflite` file.
        settings: What clients must know.
        codec: The tokenizer; LiteRT-LM takes text only.
    """
    from litert_lm_builder import litertlm_builder

    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(
        litertlm_builder.Metadata(
            key="Authors", value="kdtf", dtype=litertlm_builder.DType.STRING
        )
    )
    with tempfile.TemporaryDirectory(prefix="kdtf-bundle-") as folder:
        parts = {
            "metadata.pb": _metadata(settings).SerializeToString(),
            codec.name: codec.content,
            "model.tflite": content,
        }
        for name, part in parts.items():
            pathlib.Path(folder, name).write_bytes(part)
        at = {name: os.path.join(folder, name) for name in parts}
        builder.add_llm_metadata(at["metadata.pb"])
        if codec.name.endswith(".json"):
            builder.add_hf_tokenizer(at[codec.name])
        else:
            builder.add_sentencepiece_tokenizer(at[codec.name])
        builder.add_tflite_model(
            at["model.tflite"], litertlm_builder.TfLiteModelType.PREFILL_DECODE
        )
        with open(path, "wb") as stream:
            builder.build(stream)


def _metadata(settings: Settings) -> Any:
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    metadata = llm_metadata_pb2.LlmMetadata()
    metadata.max_num_tokens = settings.max_length
    metadata.llm_model_type.generic_model.SetInParent()
    if settings.start_token is not None:
        metadata.start_token.token_ids.ids.append(settings.start_token)
    for token in settings.stop_tokens:
        metadata.stop_tokens.add().token_ids.ids.append(token)
    if settings.chat is not None:
        for role in ("system", "user", "model"):
            affixes = getattr(metadata.prompt_templates, role)
            affixes.prefix, affixes.suffix = getattr(settings.chat, role)
    return metadata
