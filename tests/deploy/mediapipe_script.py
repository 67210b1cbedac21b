"""Run by MediaPipe's interpreter: prints what a task answers, as JSON.

python mediapipe_script.py image FILE.tflite PIXELS.npy
python mediapipe_script.py text FILE.tflite TEXT...
python mediapipe_script.py schema FILE.tflite
"""

import json
import sys

import numpy as np

# MediaPipe is imported where it is used: pytest looks for doctests here, in an
# interpreter that does not have it.


def classify_images(path, pixels):
    import mediapipe
    from mediapipe.tasks.python import vision

    image_format = mediapipe.ImageFormat.SRGB
    with vision.ImageClassifier.create_from_model_path(path) as classifier:
        return [
            answer_of(
                classifier.classify(
                    mediapipe.Image(image_format=image_format, data=picture)
                )
            )
            for picture in np.load(pixels)
        ]


def classify_texts(path, *texts):
    from mediapipe.tasks.python import text

    with text.TextClassifier.create_from_model_path(path) as classifier:
        return [answer_of(classifier.classify(line)) for line in texts]


def answer_of(result):
    """Gives index, label and score of each class, the best first."""
    return [
        (category.index, category.category_name, category.score)
        for category in result.classifications[0].categories
    ]


def read_schema(path):
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
    from mediapipe.tasks.metadata import schema_py_generated

    with open(path, "rb") as file:
        content = file.read()
    model = schema_py_generated.Model.GetRootAs(content, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = [e for e in entries if e.Name() == b"TFLITE_METADATA"]
    buffer = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(buffer, 0)
    found = schema.ModelMetadataT.InitFromObj(
        schema.ModelMetadata.GetRootAs(buffer, 0)
    )
    (subgraph,) = found.subgraphMetadata
    (image,) = subgraph.inputTensorMetadata
    (scores,) = subgraph.outputTensorMetadata
    properties = image.content.contentProperties
    (unit,) = image.processUnits
    names = ("name", "description", "version", "author", "license")
    return {
        **{name: getattr(found, name).decode() for name in names},
        "parser": found.minParserVersion.decode(),
        "inputs": [image.name.decode()],
        "outputs": [scores.name.decode()],
        "size": [properties.defaultSize.width, properties.defaultSize.height],
        "color_space": {
            schema.ColorSpaceType.RGB: "RGB",
        }[properties.colorSpace],
        "mean": np.asarray(unit.options.mean).tolist(),
        "std": np.asarray(unit.options.std).tolist(),
        "files": [file.name.decode() for file in scores.associatedFiles],
    }


TASKS = {
    "image": classify_images,
    "text": classify_texts,
    "schema": read_schema,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
