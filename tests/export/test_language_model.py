"""Exported language models write what Keras writes."""

import dataclasses
import zipfile

import keras
import keras_nlp
import numpy as np
import pytest

import kdtf
from kdtf.cli import main
from kdtf.export.language_model import LanguageModelRunner
from kdtf.export.language_model import building
from kdtf.export.language_model import export_language_model
from kdtf.export.language_model import exporting
from kdtf.export.language_model import verification
from kdtf.export.language_model.settings import Settings
from kdtf.export.plan import Plan
from kdtf.export.targets import TARGETS
from kdtf.flatbuffer import describe
from kdtf.litert import Runner

pytestmark = pytest.mark.slow

LENGTH = 24
CHUNK = 4
PROMPT = "the cat sat on the mat"


def with_tokenizer():
    text = "the cat sat on the mat, the hat of the cat was flat. "
    return keras_nlp.models.GPT2CausalLMPreprocessor(
        kdtf.data.train_tokenizer(text * 4, vocabulary_size=280),
        sequence_length=LENGTH,
    )


def randomized(model, scale=0.3):
    """Sets weights with which logits are far apart."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(scale * rng.normal(size=weight.shape))
    return model


def gpt2():
    backbone = keras_nlp.models.GPT2Backbone(
        280, 2, 2, 32, 64, dropout=0.0, max_sequence_length=LENGTH
    )
    return randomized(
        keras_nlp.models.GPT2CausalLM(backbone, preprocessor=with_tokenizer())
    )


def llama():
    backbone = keras_nlp.models.LlamaBackbone(
        64, 2, 4, 32, 48, num_key_value_heads=2
    )
    return randomized(
        keras_nlp.models.LlamaCausalLM(backbone, preprocessor=None)
    )


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A GPT-2 with a tokenizer, and its float file."""
    model = gpt2()
    path = tmp_path_factory.mktemp("lm") / "gpt2.tflite"
    result = export_language_model(
        model, path, quantize=None, max_length=LENGTH, prefill_lengths=[CHUNK]
    )
    return model, result


@pytest.fixture(scope="module")
def llama_file(tmp_path_factory):
    """A Llama of grouped heads that takes tokens, and its float file."""
    model = llama()
    result = export_language_model(
        model,
        tmp_path_factory.mktemp("lm") / "llama.tflite",
        quantize=None,
        max_length=LENGTH,
        prefill_lengths=[CHUNK],
        verify_prompts=[range(20)],
    )
    return model, result


def model_of(path):
    """The file without what travels behind it."""
    with zipfile.ZipFile(path) as archive:
        return path.read_bytes()[: archive.infolist()[0].header_offset]


def compile_greedy(model):
    """Traces once: all texts are padded to the same length."""
    if getattr(model.sampler, "name", "") != "ours":
        model.compile(sampler="greedy", jit_compile=False)
        model.sampler.name = "ours"


def tokens_of_keras(model, ids):
    """What Keras's own `generate` writes, up to the full length."""
    padded = np.zeros((1, LENGTH), "int32")
    padded[0, : len(ids)] = ids
    mask = (np.arange(LENGTH) < len(ids))[None].astype("int32")
    preprocessor, model.preprocessor = model.preprocessor, None
    try:
        compile_greedy(model)
        inputs = {"token_ids": padded, "padding_mask": mask}
        made = model.generate(inputs, stop_token_ids=None)
    finally:
        model.preprocessor = preprocessor
    return np.asarray(made["token_ids"])[0, len(ids) :].tolist()


def test_text_is_what_keras_generates(writer):
    model, result = writer
    runner = LanguageModelRunner(result.path)
    ids = runner.encode(PROMPT)
    written = "".join(runner.generate(PROMPT, stop=[]))
    # (Stop token 0 is the padding too, at which Keras would stop at once.)
    compile_greedy(model)
    assert model.generate(PROMPT, stop_token_ids=None) == PROMPT + written
    tokens = list(runner.generate_ids(ids, stop=[]))
    assert tokens == tokens_of_keras(model, ids)
    # The cache is full, and the time was taken.
    assert len(ids) + len(tokens) == LENGTH
    assert runner.stats.new_tokens == len(tokens)
    assert runner.stats.prompt_tokens == len(ids) - 1
    assert "tokens/s" in str(runner.stats)


@pytest.mark.parametrize(
    "count", [1, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 2, LENGTH - 1]
)
def test_prompts_around_a_chunk_are_read_right(llama_file, count):
    # All but the last token are read in chunks.
    model, result = llama_file
    ids = np.random.default_rng(count).integers(0, 64, count).tolist()
    runner = LanguageModelRunner(result.path)
    assert list(runner.generate_ids(ids)) == tokens_of_keras(model, ids)


def test_scores_continue_what_the_cache_holds(llama_file):
    model, result = llama_file
    ids = np.random.default_rng(3).integers(0, 64, LENGTH)
    runner = LanguageModelRunner(result.path)
    found = [runner.logits(ids[:3]), runner.logits(ids[3:11])]
    found += [runner.logits([token]) for token in ids[11:]]
    inputs = {"token_ids": ids[None], "padding_mask": np.ones((1, LENGTH))}
    expected = np.asarray(model(inputs, training=False))[0]
    np.testing.assert_allclose(
        found, expected[[2, *range(10, LENGTH)]], atol=1e-3
    )
    with pytest.raises(ValueError, match="24 of them taken"):
        runner.logits([1])
    runner.reset()
    assert np.array_equal(runner.logits(ids[:3]), found[0])


def test_the_file_has_the_names_and_shapes_of_litert_lm(llama_file):
    path = llama_file[1].path
    prefill, decode = (
        Runner(path, signature=key) for key in (f"prefill_{CHUNK}", "decode")
    )
    caches = {f"kv_cache_{part}_{i}" for part in "kv" for i in (0, 1)}
    assert set(prefill.input_specs) == caches | {"tokens", "input_pos"}
    assert set(prefill.output_specs) == caches
    assert set(decode.output_specs) == caches | {"logits"}
    assert decode.output_specs["logits"].shape == (1, 1, 64)
    assert prefill.input_specs["tokens"].shape == (1, CHUNK)
    assert prefill.input_specs["input_pos"].shape == (CHUNK,)
    assert prefill.input_specs["kv_cache_k_0"].shape == (1, 2, LENGTH, 8)


def test_a_padded_chunk_at_the_end_spares_older_tokens(llama_file):
    # As a client does that knows one prefill only: two tokens, two pads.
    path, start = llama_file[1].path, LENGTH - 2
    rng = np.random.default_rng(0)
    prefill, decode = (
        Runner(path, signature=key) for key in (f"prefill_{CHUNK}", "decode")
    )
    caches = {
        name: rng.normal(size=spec.shape).astype("float32")
        for name, spec in decode.input_specs.items()
        if name.startswith("kv")
    }
    tokens = np.array([[5, 6, 0, 0]], "int32")
    places = np.arange(start, start + CHUNK, dtype="int32")
    found = prefill({"tokens": tokens, "input_pos": places, **caches})
    expected = caches
    for i in range(2):
        given = {"tokens": tokens[:, [i]], "input_pos": places[[i]]}
        filled = decode({**given, **expected})
        expected = {name: filled[name] for name in caches}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_the_result_tells_what_was_checked(writer):
    model, result = writer
    assert result.size_bytes == result.path.stat().st_size
    assert result.token_agreement == 1.0 and result.sqnr_db > 80
    assert result.tokenizer == "tokenizer.json" and not result.has_chat
    assert result.litert_lm is None
    # Nothing is missing, and nothing stored twice.
    assert 0.95 < result.num_parameters / model.count_params() < 1.05
    assert "verified on" in str(result) and "100.0% equal" in str(result)
    # A child of a large process must not report its parent's memory.
    assert 10e6 < result.peak_memory_bytes < 400e6


def test_draws_are_repeatable_and_follow_the_temperature(llama_file):
    runner = LanguageModelRunner(llama_file[1].path)

    def write(**options):
        return list(runner.generate_ids([1, 2], **options))

    assert write(temperature=2.0, seed=1) == write(temperature=2.0, seed=1)
    assert write(temperature=2.0, seed=1) != write(temperature=2.0, seed=2)
    assert write(temperature=1e-4, seed=1) == write()
    assert write(max_tokens=3) == write()[:3]
    stop = write()[4]
    expected = write()[: write().index(stop)]
    assert write(stop=[stop]) == expected


def test_prompts_that_do_not_fit_are_refused(writer, llama_file):
    runner = LanguageModelRunner(llama_file[1].path)
    for ids in ([], [1] * LENGTH):
        with pytest.raises(ValueError, match="at most 23"):
            runner.generate_ids(ids)
    with pytest.raises(ValueError, match="temperature"):
        runner.generate_ids([1], temperature=-1)
    with pytest.raises(ValueError, match="max_tokens"):
        runner.generate_ids([1], max_tokens=0)
    with pytest.raises(ValueError, match="file has none"):
        runner.generate("text")
    with pytest.raises(ValueError, match="file has none"):
        runner.generate([1])
    runner = LanguageModelRunner(writer[1].path)
    with pytest.raises(ValueError, match="turns of a conversation"):
        runner.generate(PROMPT, chat=True)
    with pytest.raises(ValueError, match="num_threads"):
        LanguageModelRunner(writer[1].path, num_threads=0)


def test_the_command_prints_the_text(writer, capsys):
    path = str(writer[1].path)
    assert main(["generate", path, PROMPT, "--max-tokens", "4"]) == 0
    printed = capsys.readouterr()
    runner = LanguageModelRunner(path)
    expected = "".join(runner.generate(PROMPT, max_tokens=4))
    assert printed.out == expected + "\n"
    assert "written: 4 tokens" in printed.err
    assert main(["generate", path, PROMPT, "--chat"]) == 2
    assert "turns of a conversation" in capsys.readouterr().err
    assert main(["generate", path, "the " * 30]) == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"quantize": "int8"}, "quantize"),
        ({"quantize": "float16"}, "quantize"),
        ({"max_length": 1}, "max_length"),
        ({"max_length": LENGTH + 1}, "its positions"),
        ({"prefill_lengths": [1]}, "prefill_lengths"),
        ({"prefill_lengths": [LENGTH + 1]}, "prefill_lengths"),
        ({"verify_prompts": [[280]]}, "verify_prompts"),
        ({"tokenizer": "no/such.json"}, "no file"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(tmp_path, options, word):
    path = tmp_path / "a.tflite"
    with pytest.raises(ValueError, match=word):
        export_language_model(gpt2(), path, **{"max_length": LENGTH, **options})
    assert not list(tmp_path.iterdir())


def test_other_models_paths_and_tokenizers_are_refused(tmp_path):
    dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(TypeError, match="generates with a cache"):
        export_language_model(dense, tmp_path / "a.tflite")
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export_language_model("model", tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"\.litertlm"):
        export_language_model(dense, tmp_path / "a.bin")
    options = {"max_length": 8, "prefill_lengths": []}
    model = llama()
    model.preprocessor = with_tokenizer()
    with pytest.raises(ValueError, match="fit the model's 64 tokens"):
        export_language_model(model, tmp_path / "a.tflite", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_of_more_than_2_gib_is_refused_first(tmp_path, monkeypatch):
    model = llama()
    monkeypatch.setattr(model, "count_params", lambda: 2**29)
    monkeypatch.setattr(exporting, "build_language_model", None)
    with pytest.raises(kdtf.ExportError, match="2 GiB"):
        export_language_model(model, tmp_path / "a.tflite", max_length=8)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_all_as_it_was(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise kdtf.ExportError("no converter")

    path = tmp_path / "a.tflite"
    path.write_bytes(b"older")
    monkeypatch.setattr(building, "to_float_file", fail)
    model = llama()
    model.compile("sgd", sampler="top_p")
    optimizer, sampler = model.optimizer, model.sampler
    with pytest.raises(kdtf.ExportError, match="no converter"):
        export_language_model(
            model, path, max_length=4, verify_prompts=[[1, 2]]
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.tflite"]
    assert path.read_bytes() == b"older"
    assert model.optimizer is optimizer and model.sampler is sampler


def test_a_file_that_fails_its_check_is_not_left(tmp_path, llama_file):
    # The check of another model's file, so that every token differs.
    model, result = llama_file
    written = verification.written_by(model, [[1, 2, 3]], max_length=8)
    wrong = [dataclasses.replace(w, logits=-w.logits) for w in written]
    wrong = [
        dataclasses.replace(w, tokens=w.logits.argmax(-1).tolist())
        for w in wrong
    ]
    path = tmp_path / "a.tflite"
    described = describe(result.path)
    built = building.Built(
        content=model_of(result.path),
        plan=Plan(target=TARGETS["android"], mode=None),
        description=described,
        written=wrong,
        notes=(),
    )
    settings = Settings(max_length=LENGTH)
    with pytest.raises(kdtf.ExportError, match="other ones at 5 of 5 places"):
        exporting._verified(path, built, settings, None, (CHUNK,))
    assert not list(tmp_path.iterdir())
