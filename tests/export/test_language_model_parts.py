"""What a language model's file is made of, part by part."""

import io
import zipfile

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import kdtf
from kdtf.export.language_model import caches
from kdtf.export.language_model import packaging
from kdtf.export.language_model import prompts
from kdtf.export.language_model import tokenizer_files
from kdtf.export.language_model import verification
from kdtf.export.language_model.caches import Rows
from kdtf.export.language_model.caches import Stack
from kdtf.export.language_model.caches import caches_in_place
from kdtf.export.language_model.settings import Settings
from kdtf.export.language_model.settings import chat_of
from kdtf.export.language_model.text_codec import TextCodec
from kdtf.export.targets import MODES

TEXT = "the cat sat on the mat, the hat of the cat was flat. " * 4


def rows(heads=2, length=6, dim=3, repeats=1, seed=0):
    rng = np.random.default_rng(seed)
    tensor = rng.normal(size=(1, heads, length, dim)).astype("float32")
    return Rows(tensor=tf.constant(tensor), repeats=repeats)


@pytest.mark.parametrize(
    ("equation", "shape", "repeats", "is_first"),
    [
        # Llama: scores and their use, each head for two query heads.
        ("bquh,bkuh->buqk", (1, 5, 4, 3), 2, False),
        ("buqk,bkuh->bquh", (1, 4, 5, 6), 2, False),
        # Gemma groups the query heads itself.
        ("btkgh,bskh->bkgts", (1, 5, 2, 4, 3), 1, False),
        ("bkgts,bskh->btkgh", (1, 2, 4, 5, 6), 1, False),
        # Keras's MultiHeadAttention has the keys first.
        ("aecd,abcd->acbe", (1, 5, 2, 3), 1, True),
        ("acbe,aecd->abcd", (1, 2, 5, 6), 1, False),
    ],
)
def test_einsum_on_rows_is_einsum_on_the_tensor_of_keras(
    rng, equation, shape, repeats, is_first
):
    cache = rows(repeats=repeats)
    other = tf.constant(rng.normal(size=shape).astype("float32"))
    pair = (cache, other) if is_first else (other, cache)
    with caches_in_place():
        found = ops.einsum(equation, *pair)
    tensors = [x.as_keras() if x is cache else x for x in pair]
    expected = np.einsum(equation, *map(np.asarray, tensors))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "equation", ["bquh,bkuh->buq", "bkuh,bkuh->bk", "bquh,bkuh->qk"]
)
def test_an_unknown_einsum_takes_the_tensor_of_keras(rng, equation):
    cache = rows()
    length = 6 if equation.startswith("bkuh") else 5
    other = rng.normal(size=(1, length, 2, 3)).astype("float32")
    with caches_in_place():
        found = ops.einsum(equation, other, cache)
    expected = np.einsum(equation, other, np.asarray(cache.as_keras()))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("start", "count", "expected"),
    [
        (0, 2, [10, 11, 3, 4, 5]),
        (3, 2, [1, 2, 3, 10, 11]),
        # Two of three, and one of three, fit.
        (3, 3, [1, 2, 3, 10, 11]),
        (4, 3, [1, 2, 3, 4, 10]),
        (4, 1, [1, 2, 3, 4, 10]),
        (0, 5, [10, 11, 12, 13, 14]),
    ],
)
def test_tokens_past_the_end_fall_off(start, count, expected):
    old = tf.reshape(tf.range(1.0, 6.0), [1, 1, 5, 1])
    new = tf.reshape(tf.range(10.0, 10.0 + count), [1, count, 1, 1])
    with caches_in_place():
        found = ops.slice_update(
            Rows(tensor=old), [0, tf.constant(start), 0, 0], new
        )
    assert np.ravel(found.tensor).tolist() == expected


def test_a_stack_is_taken_apart_without_a_tensor():
    first, second = rows(seed=1), rows(seed=2)
    with caches_in_place():
        pair = ops.stack((first, second), axis=1)
        assert ops.shape(pair) == (1, 2, 6, 2, 3)
        assert ops.repeat(first, repeats=3, axis=2).repeats == 3
    assert pair[:, 1, ...] is second
    assert Stack(parts=(pair,))[:, 0, ...] is pair
    expected = np.stack([first.as_keras(), second.as_keras()], 1)
    assert np.array_equal(tf.convert_to_tensor(pair), expected)
    assert np.array_equal(pair[:, 0], expected[:, 0])


def test_other_tensors_and_operations_stay_as_they_are():
    before = {
        (module, name): getattr(module, name)
        for module in (keras.ops, keras.src.ops)
        for name in caches._OPERATIONS
    }
    with pytest.raises(KeyError, match="stop"), caches_in_place():
        assert ops.shape(np.ones((2, 3))) == (2, 3)
        assert np.array_equal(ops.repeat(np.ones(2), 2, axis=0), np.ones(4))
        summed = ops.add(rows(), 1.0)
        assert np.allclose(summed, rows().as_keras() + 1.0)
        raise KeyError("stop")
    for (module, name), operation in before.items():
        assert getattr(module, name) is operation


def test_settings_come_back_from_json():
    chat = chat_of({"<|im_start|>": 1, "<|im_end|>": 2}.get)
    settings = Settings(
        max_length=64, start_token=3, stop_tokens=(2, 0), chat=chat
    )
    assert Settings.from_json(settings.to_json()) == settings
    assert chat.prompt("Hi") == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat_of({"<|im_start|>": 1}.get) is None
    for text in ("[]", "{", '{"stop_tokens": []}', '{"chat": 3}'):
        with pytest.raises(ValueError, match="Export the model again"):
            Settings.from_json(text)


def gpt2_tokenizer():
    return kdtf.data.train_tokenizer(TEXT, vocabulary_size=280)


def with_tokenizer(tokenizer, **options):
    class Named:
        preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
            tokenizer, sequence_length=16, **options
        )

    return Named()


def test_the_tokenizer_file_gives_the_tokens_of_keras():
    # With pairs across words, on which ways of splitting differ.
    indented = "def f():\n    return x\n\n    the cat\n"
    tokenizer = kdtf.data.train_tokenizer(
        20 * (TEXT + indented), vocabulary_size=320
    )
    codec = tokenizer_files.codec_of(with_tokenizer(tokenizer), "auto")
    texts = ("the cat's  mat\n\n 42", "Größe 東京", "<|endoftext|>the")
    for text in (*texts, indented, "  two\n  the"):
        ids = codec.encode(text)
        assert ids == np.asarray(tokenizer(text)).tolist()
        assert codec.decode(ids) == text.replace("<|endoftext|>", "")
    end = tokenizer.vocabulary_size() - 1
    assert codec.token_id("<|endoftext|>") == end == tokenizer.end_token_id
    assert codec.token_id("no such token") is None
    assert codec.num_tokens == tokenizer.vocabulary_size()


def test_settings_take_the_tokens_of_the_preprocessor():
    tokenizer = gpt2_tokenizer()
    model = with_tokenizer(tokenizer)
    codec = tokenizer_files.codec_of(model, "auto")
    found = tokenizer_files.settings_of(model, codec, max_length=9)
    end = tokenizer.end_token_id
    expected = Settings(
        max_length=9,
        start_token=end,
        stop_tokens=(end,),
        tokenizer="tokenizer.json",
    )
    assert found == expected
    model = with_tokenizer(tokenizer, add_start_token=False)
    found = tokenizer_files.settings_of(model, codec, max_length=9)
    assert found.start_token is None


def test_a_tokenizer_without_a_file_that_agrees_is_refused(monkeypatch):
    model = with_tokenizer(gpt2_tokenizer())
    monkeypatch.setattr(tokenizer_files, "_ids", lambda *_: [1, 2, 3])
    with pytest.raises(kdtf.ExportError, match="tokens that Keras's gives"):
        tokenizer_files.codec_of(model, "auto")


def test_a_chat_token_of_a_tokenizer_file_becomes_special(tmp_path):
    import tokenizers

    words = {"<|im_start|>": 0, "<|im_end|>": 1, "<": 2, "|": 3, "a": 4}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    plain.save(str(tmp_path / "tokenizer.json"))
    codec = tokenizer_files.codec_of(object(), tmp_path / "tokenizer.json")
    assert codec.encode("<|im_start|>a<|im_end|>") == [0, 4, 1]
    settings = tokenizer_files.settings_of(object(), codec, max_length=8)
    assert settings.stop_tokens == (1,) and settings.chat.stop == "<|im_end|>"


def pieces_model(folder):
    import sentencepiece

    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split(". ")),
        model_writer=stream,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(stream.getvalue())
    return stream.getvalue()


def test_a_sentencepiece_tokenizer_travels_as_it_is(tmp_path):
    tokenizer = keras_nlp.models.GemmaTokenizer(proto=pieces_model(tmp_path))

    class Model:
        preprocessor = keras_nlp.models.GemmaCausalLMPreprocessor(
            tokenizer, sequence_length=16
        )

    codec = tokenizer_files.codec_of(Model(), "auto")
    assert codec.name == "tokenizer.model"
    assert codec.content == bytes(tokenizer.proto)
    ids = codec.encode("the cat sat")
    assert ids == np.asarray(tokenizer("the cat sat")).tolist()
    assert codec.decode([2, *ids, 1]) == "the cat sat"
    settings = tokenizer_files.settings_of(Model(), codec, max_length=16)
    assert (settings.start_token, settings.stop_tokens) == (2, (1,))
    same = tokenizer_files.codec_of(object(), tmp_path / "tokenizer.model")
    assert same.encode("the cat sat") == ids


def test_a_tokenizer_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which is no file"):
        tokenizer_files.codec_of(object(), tmp_path / "none.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="does not load"):
        tokenizer_files.codec_of(object(), tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="does not load"):
        TextCodec(b"no model", "tokenizer.model")
    assert tokenizer_files.codec_of(object(), "auto") is None
    assert tokenizer_files.codec_of(object(), None) is None


def test_files_stand_behind_the_model(tmp_path):
    settings = Settings(max_length=8)
    content = packaging.with_files(b"model" * 9, settings, None)
    assert content.startswith(b"model" * 9)
    assert content == packaging.with_files(b"model" * 9, settings, None)
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["language_model.json"]
        assert archive.testzip() is None
    assert packaging.read_package(path) == (settings, None)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(b"model" * 9)
    with pytest.raises(ValueError, match="export_language_model"):
        packaging.read_package(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "cat")
    with pytest.raises(ValueError, match="export_language_model"):
        packaging.read_package(path)
    with pytest.raises(ValueError, match="LiteRT-LM"):
        packaging.read_package(tmp_path / "a.litertlm")
    with pytest.raises(FileNotFoundError):
        packaging.read_package(tmp_path / "none.tflite")


def test_prompts_are_as_long_as_asked():
    def found(given, max_length=40):
        return prompts.token_prompts(
            given,
            None,
            Settings(max_length=max_length, start_token=7),
            vocabulary_size=9,
            longest_call=16,
        )

    assert [len(ids) for ids in found(None)] == [18, 18]
    assert [len(ids) for ids in found(None, max_length=20)] == [4, 4]
    assert [len(ids) for ids in found(None, max_length=2)] == [1, 1]
    assert found([[1, 2], np.array([3])]) == [[1, 2], [3]]
    for wrong in ([[]], [[9]], [[-1]], [[1] * 40], [], ["text"]):
        with pytest.raises(ValueError, match="verify_prompts"):
            found(wrong)


def test_prompts_of_text_start_with_the_start_token():
    model = with_tokenizer(gpt2_tokenizer())
    codec = tokenizer_files.codec_of(model, "auto")
    settings = tokenizer_files.settings_of(model, codec, max_length=64)
    options = {"vocabulary_size": 280, "longest_call": 16}
    given = prompts.token_prompts(["the cat"], codec, settings, **options)
    start = codec.token_id("<|endoftext|>")
    assert given == [[start, *codec.encode("the cat")]]
    default = prompts.token_prompts(None, codec, settings, **options)
    assert [len(ids) for ids in default] == [18, 18]
    assert codec.decode(default[0]).startswith("The")


@pytest.mark.parametrize(("gap", "is_tie"), [(5e-4, True), (2e-3, False)])
def test_only_a_tie_excuses_another_token(gap, is_tie):
    expected = np.array([[10.0, 10.0 - gap, 0.0]])
    given = expected[:, [1, 0, 2]]
    tokens = np.array([0])
    if is_tie:
        verification._check_tokens(given, expected, tokens)
        return
    with pytest.raises(kdtf.ExportError, match="at 1 of 1 places"):
        verification._check_tokens(given, expected, tokens)


def test_what_all_scores_share_is_no_noise(monkeypatch):
    def compared(given):
        facts = {"tokens_per_second": 1.0, "peak_memory_bytes": 1}
        monkeypatch.setattr(
            verification, "forced_logits", lambda *_: ([given], facts)
        )
        written = verification.Written(prompt=[0], tokens=[1], logits=logits)
        return verification.compare_file(None, [written], mode="int4")

    logits = np.array([[-1.0, 1.0]], "float32")
    assert compared(logits + 8).sqnr_db == np.inf
    # A tenth of the signal is noise: 20 dB.
    found = compared(np.array([[-0.9, 0.9]]))
    assert found.sqnr_db == pytest.approx(20.0, abs=1e-4)
    assert found.token_agreement == 1.0
    assert compared(-logits).token_agreement == 0.0
    for wrong in (np.full((1, 2), np.nan), np.zeros((1, 3))):
        with pytest.raises(kdtf.ExportError, match="a number for each token"):
            compared(wrong)


def test_a_noisy_file_is_refused_and_a_fair_one_warned_about():
    def limits(sqnr_db):
        comparison = verification.Comparison(
            sqnr_db=sqnr_db,
            token_agreement=0.5,
            num_tokens=4,
            tokens_per_second=1.0,
            peak_memory_bytes=1,
        )
        return verification.check_limits(comparison, MODES["int4"])

    assert limits(20.0) == ()
    assert "10.0 dB" in limits(10.0)[0] and "50%" in limits(10.0)[0]
    with pytest.raises(kdtf.ExportError, match="to 6 dB"):
        limits(5.0)
