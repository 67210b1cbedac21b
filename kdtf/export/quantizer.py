"""ai-edge-quantizer, behind one function."""

from kdtf.export.errors import ExportError
from kdtf.export.quiet import quiet


def to_dynamic_int8(content: bytes) -> bytes:
    """Returns the file with int8 weights, one scale per output channel.

    Activations stay float in the file; the runtime quantizes them on the fly.
    The quantizer leaves operators outside its policy in float without a
    word: `kdtf.export.checks` counts what it reached.

    Args:
        content: A float32 `.tflite` file with rewritten embeddings.

    Raises:
        ExportError: The quantizer refused the file.
    """
    from ai_edge_quantizer import Quantizer
    from ai_edge_quantizer import recipe

    with quiet():
        quantizer = Quantizer(bytearray(content))
        quantizer.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        try:
            result = quantizer.quantize(
                enable_progress_bar=False, enable_progress_report=False
            )
        # Its algorithms raise whatever NumPy raises.
        except Exception as error:
            raise ExportError(
                "ai-edge-quantizer must be able to quantize the file. "
                f"Received: {type(error).__name__}: {error}. Try "
                "`quantize='float16'`."
            ) from error
    return bytes(result.quantized_model)
