"""Students that begin as parts of their teachers."""

import dataclasses

import numpy as np
import pytest

from kdtf.distillation.initialization import initialize_student
from kdtf.distillation.initialization import student_of

# For its time; CI runs it.
pytestmark = pytest.mark.slow

NOISE = np.random.default_rng(0)
COMMON = {"vocabulary_size": 24, "hidden_dim": 8, "intermediate_dim": 12}
ENCODER = {**COMMON, "num_heads": 2, "max_sequence_length": 10}
DECODER = {**COMMON, "num_query_heads": 2, "num_key_value_heads": 1}
FAMILIES = {
    "Bert": (ENCODER, "BertTextClassifier"),
    "DistilBert": (ENCODER, "DistilBertTextClassifier"),
    "Roberta": (ENCODER, "RobertaTextClassifier"),
    "GPT2": (ENCODER, "GPT2CausalLM"),
    "Llama": (DECODER, "LlamaCausalLM"),
    "Llama3": (DECODER, "Llama3CausalLM"),
    "Qwen": (DECODER, "QwenCausalLM"),
    "Gemma": ({**DECODER, "head_dim": 4}, "GemmaCausalLM"),
}


def build(family, num_layers, *, num_classes=3, **kwargs):
    import keras_nlp

    settings, task = FAMILIES[family]
    backbone = getattr(keras_nlp.models, f"{family}Backbone")(
        num_layers=num_layers, **{**settings, **kwargs}
    )
    head = {} if "LM" in task else {"num_classes": num_classes}
    model = getattr(keras_nlp.models, task)(backbone, **head)
    # Norms and biases begin as constants: a copy of them would not be seen.
    for weight in model.weights:
        noise = NOISE.normal(scale=0.3, size=weight.shape)
        weight.assign(np.array(weight) + noise.astype("float32"))
    return model


def inputs(model, rng):
    x = {
        "token_ids": rng.integers(0, 24, (2, 6)),
        "padding_mask": np.ones((2, 6), int),
    }
    if "segment_ids" in model.input:
        x["segment_ids"] = np.zeros((2, 6), int)
    return x


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_all_layers_is_its_teacher(family, rng):
    teacher = build(family, 2)
    student = student_of(teacher, num_layers=2)
    assert type(student) is type(teacher)
    x = inputs(teacher, rng)
    expected, outputs = np.array(teacher(x)), np.array(student(x))
    assert np.abs(expected).max() > 0.1
    assert np.abs(outputs - expected).max() == 0.0
    # It has variables of its own.
    for weight in teacher.weights:
        weight.assign(weight * 0.0)
    assert (np.array(student(x)) == expected).all()


@pytest.mark.parametrize("family", ["Bert", "GPT2", "Llama"])
def test_blocks_are_copied_by_their_numbers(family):
    teacher = build(family, 4)
    before = [np.array(w) for w in teacher.weights]
    student = student_of(teacher, num_layers=2)
    sources = teacher.backbone.transformer_layers
    for block, source in zip(
        student.backbone.transformer_layers, (0, 3), strict=True
    ):
        for index, other in enumerate(sources):
            equal = all(
                (np.array(a) == np.array(b)).all()
                for a, b in zip(block.weights, other.weights, strict=True)
            )
            assert equal == (index == source)
    for old, weight in zip(before, teacher.weights, strict=True):
        assert (old == np.array(weight)).all()


def test_half_of_twelve_is_what_distilbert_took():
    teacher = build("Bert", 12)
    report = initialize_student(build("Bert", 6), teacher)
    blocks = [row for row in report.rows if "transformer" in row.layer]
    assert [row.source for row in blocks] == [
        f"transformer_layer_{i}" for i in (0, 2, 4, 7, 9, 11)
    ]
    one = initialize_student(build("Bert", 1), teacher)
    assert one.rows[-1].source == "transformer_layer_0"


def test_blocks_may_be_chosen():
    teacher, student = build("GPT2", 3), build("GPT2", 3)
    report = initialize_student(student, teacher, layers=[2, 2, 0])
    sources = [row.source[-1] for row in report.rows[-3:]]
    assert sources == ["2", "2", "0"]
    student = build("GPT2", 3)
    kept = [np.array(w) for w in student.backbone.transformer_layers[0].weights]
    report = initialize_student(student, teacher, layers={2: 1, 1: 0})
    assert report.rows[-3].reason == "(stays: not in `layers`)"
    assert [row.source[-1] for row in report.rows[-2:]] == ["0", "1"]
    for old, weight in zip(
        kept, student.backbone.transformer_layers[0].weights, strict=True
    ):
        assert (old == np.array(weight)).all()


def test_embeddings_may_stay():
    teacher, student = build("GPT2", 2), build("GPT2", 2)
    table = student.backbone.token_embedding
    before = np.array(table.weights[0])
    report = initialize_student(student, teacher, embeddings=False)
    stayed = {row.layer for row in report.rows if row.reason}
    assert stayed == {"token_embedding", "position_embedding"}
    assert (np.array(table.weights[0]) == before).all()
    assert (
        np.array(student.backbone.layer_norm.gamma)
        == np.array(teacher.backbone.layer_norm.gamma)
    ).all()


def test_a_layer_of_another_shape_stays_whole():
    teacher = build("Bert", 2)
    student = build(
        "Bert", 1, num_classes=5, intermediate_dim=6, vocabulary_size=20
    )
    layers = {
        "token_embedding": student.backbone.token_embedding,
        "logits": student.output_dense,
    }
    before = {
        name: [np.array(w) for w in layer.weights]
        for name, layer in layers.items()
    }
    report = initialize_student(student, teacher)
    for name, layer in layers.items():
        for old, weight in zip(before[name], layer.weights, strict=True):
            assert (old == np.array(weight)).all()
    stayed = {row.layer: row.reason for row in report.rows if row.reason}
    assert stayed == {
        "token_embedding": "(stays: shape (20, 8), teacher's (24, 8))",
        "logits": "(stays: shape (8, 5), teacher's (8, 3))",
        "transformer_layer_0/feedforward_intermediate_dense": (
            "(stays: shape (8, 6), teacher's (8, 12))"
        ),
        "transformer_layer_0/feedforward_output_dense": (
            "(stays: shape (6, 8), teacher's (12, 8))"
        ),
    }
    attention = "transformer_layer_0/self_attention_layer/query"
    row = next(row for row in report.rows if row.layer == attention)
    assert (row.source, row.num_parameters) == ("transformer_layer_0", 72)


def test_the_report_counts_and_prints_every_parameter():
    teacher = build("Bert", 4)
    student = build("Bert", 2, num_classes=5)
    report = initialize_student(student, teacher)
    assert report.num_parameters == student.count_params()
    # All but the head: 8 * 5 + 5.
    assert report.num_copied == student.count_params() - 45
    lines = str(report).splitlines()
    assert lines[0].startswith(f"Copied {report.num_copied:,} of ")
    cells = [line.split() for line in lines]
    # Four projections, two norms and two dense layers, with their biases:
    # 4 * (8 * 8 + 8) + 2 * (8 + 8) + (8 * 12 + 12) + (12 * 8 + 8)
    assert ["transformer_layer_1", "532", "transformer_layer_3"] in cells
    assert any(line[:2] == ["logits", "45"] for line in cells)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.rows = ()


def test_a_shorter_student_takes_the_first_positions():
    teacher = build("GPT2", 1)
    student = build("GPT2", 1, max_sequence_length=4)
    report = initialize_student(student, teacher)
    assert not any(row.reason for row in report.rows)
    rows = [
        m.backbone.position_embedding.weights[0] for m in (student, teacher)
    ]
    assert (np.array(rows[0]) == np.array(rows[1])[:4]).all()
    longer = build("GPT2", 1, max_sequence_length=12)
    reasons = [row.reason for row in initialize_student(longer, teacher).rows]
    assert "(stays: shape (12, 8), teacher's (10, 8))" in reasons


def test_bert_teaches_distilbert():
    teacher, student = build("Bert", 4), build("DistilBert", 2)
    report = initialize_student(student, teacher)
    sources = {row.layer: row.source for row in report.rows}
    inner = "token_and_position_embedding"
    assert sources[f"{inner}/token_embedding"] == "token_embedding"
    assert sources[f"{inner}/position_embedding"] == "position_embedding"
    assert sources["embeddings_layer_norm"] == "embeddings_layer_norm"
    assert sources["transformer_layer_1"] == "transformer_layer_3"
    # tanh's weights are no good for a ReLU.
    reasons = {row.layer: row.reason for row in report.rows if row.reason}
    assert reasons == {
        "pooled_dense": "(stays: activation relu, teacher's tanh)"
    }


def test_backbones_and_tasks_go_together():
    teacher = build("Bert", 2)
    bare = student_of(teacher.backbone, num_layers=1)
    assert type(bare) is type(teacher.backbone)
    student = build("Bert", 1)
    report = initialize_student(student, teacher.backbone)
    reasons = {row.layer: row.reason for row in report.rows if row.reason}
    assert reasons == {"logits": "(stays: the teacher has no such layer)"}


def test_a_teacher_of_another_dtype_is_rounded():
    teacher = build("GPT2", 1, dtype="float16")
    student = build("GPT2", 1)
    initialize_student(student, teacher)
    for weight, source in zip(student.weights, teacher.weights, strict=True):
        assert weight.dtype == "float32"
        assert (np.array(weight) == np.array(source).astype("float32")).all()


def test_the_preprocessor_is_kept_and_the_student_is_saved(tmp_path):
    import keras_nlp

    from kdtf import data

    tokenizer = data.train_tokenizer("the cat, the hat", vocabulary_size=260)
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=6
    )
    backbone = keras_nlp.models.GPT2Backbone(
        num_layers=2, **{**ENCODER, "vocabulary_size": 260}
    )
    teacher = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    student = student_of(teacher, num_layers=1)
    assert student.preprocessor is preprocessor
    assert student.name != teacher.name
    student.save_to_preset(tmp_path / "student")
    loaded = keras_nlp.models.GPT2CausalLM.from_preset(
        str(tmp_path / "student")
    )
    assert loaded.backbone.num_layers == 1
    for weight, other in zip(student.weights, loaded.weights, strict=True):
        assert (np.array(weight) == np.array(other)).all()


def test_other_widths_are_refused_with_the_way_out():
    teacher = build("Bert", 2)
    before = [np.array(w) for w in teacher.weights]
    with pytest.raises(
        ValueError, match=r"hidden_dim=4, teacher .*hidden_dim=8.*student_of"
    ):
        initialize_student(build("Bert", 1, hidden_dim=4), teacher)
    assert all(
        (old == np.array(w)).all()
        for old, w in zip(before, teacher.weights, strict=True)
    )


def test_layers_that_do_not_fit_are_refused():
    student, teacher = build("GPT2", 2), build("GPT2", 4)
    for layers in ([0], [0, 4], [0, -1], [0, 0.5], {2: 0}, {}, "first"):
        with pytest.raises(
            ValueError, match="`layers` must be .*2 blocks, .* 4"
        ):
            initialize_student(student, teacher, layers=layers)


def test_depths_that_do_not_fit_are_refused():
    teacher = build("GPT2", 2)
    for num_layers in (0, 3):
        with pytest.raises(ValueError, match=f"num_layers={num_layers}, .* 2"):
            student_of(teacher, num_layers=num_layers)
    with pytest.raises(ValueError, match="3 blocks, teacher with 2"):
        initialize_student(build("GPT2", 3), teacher)


def test_models_without_blocks_are_refused(tiny_cnn):
    teacher = build("GPT2", 1)
    with pytest.raises(TypeError, match="`student` must .* type=Sequential"):
        initialize_student(tiny_cnn, teacher)
    with pytest.raises(TypeError, match="`teacher` must .* type=Sequential"):
        student_of(tiny_cnn, num_layers=1)
    with pytest.raises(TypeError, match="`teacher` must .* type=str"):
        initialize_student(teacher, "gpt2")
