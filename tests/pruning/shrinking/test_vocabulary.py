"""Fewer tokens: the same tokens and logits for what is kept."""

import functools
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.data import documentation_text
from kdtf.pruning.shrinking import plan_vocabulary
from kdtf.pruning.shrinking import trim_vocabulary
from kdtf.pruning.shrinking.token_sets import token_set

SIZES = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 16}
HEADS = {"num_query_heads": 2, "num_key_value_heads": 1}
LENGTH = 24
# Model -> its tokens' kind, sizes, its tokenizer's special tokens.
MODELS = {
    "GPT2": ("pairs", {"num_heads": 2, "max_sequence_length": LENGTH}),
    "Llama3": ("pairs", HEADS),
    "Qwen": ("pairs", HEADS),
    "Qwen3": ("pairs", {**HEADS, "head_dim": 4}),
    "Llama": ("bpe", HEADS),
    "Gemma": ("unigram", {**HEADS, "head_dim": 4}),
}
SPECIAL = {
    "Llama3": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
}
QUICK = ("GPT2", "Llama3")
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@functools.cache
def lines():
    text = documentation_text()[0][:30_000]
    return [line + "\n" for line in text.splitlines() if line.strip()]


@functools.cache
def pairs():
    import tokenizers

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        lines(),
        tokenizers.trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<pad>", *MARKS],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [" ".join(merge) for merge in model["merges"]]


@functools.cache
def pieces(kind):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_writer=model,
        model_type=kind,
        vocab_size=400,
        byte_fallback=kind == "bpe",
        pad_id=0,
        unk_id=3,
        bos_id=1,
        eos_id=2,
        pad_piece="<pad>",
        bos_piece="<bos>" if kind == "unigram" else "<s>",
        eos_piece="<eos>" if kind == "unigram" else "</s>",
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def causal(name, **kwargs):
    import keras_nlp

    keras.utils.set_random_seed(0)
    kind, sizes = MODELS[name]
    made = (
        dict(zip(("vocabulary", "merges"), pairs(), strict=True))
        if kind == "pairs"
        else {"proto": pieces(kind)}
    )
    classes = keras_nlp.models
    if name == "Llama3":
        kwargs = {"misc_special_tokens": {"<|endoftext|>"}, **SPECIAL[name]}
    tokenizer = getattr(classes, f"{name}Tokenizer")(**made, **kwargs)
    backbone = getattr(classes, f"{name}Backbone")(
        vocabulary_size=tokenizer.vocabulary_size() + 6, **SIZES, **sizes
    )
    preprocessor = getattr(classes, f"{name}CausalLMPreprocessor")(
        tokenizer, sequence_length=LENGTH
    )
    return getattr(classes, f"{name}CausalLM")(
        backbone, preprocessor=preprocessor
    )


def strings(tokenizer, text):
    ids = np.asarray(tokenizer(text)).tolist()
    return ids, [tokenizer.id_to_token(index) for index in ids]


def padded(rows):
    tokens, mask = np.zeros((2, len(rows), LENGTH), "int32")
    for index, ids in enumerate(rows):
        tokens[index, : len(ids)] = ids[:LENGTH]
        mask[index, : len(ids)] = 1
    return {"token_ids": tokens, "padding_mask": mask}


def check_law(model, plan, old, texts):
    """Returns how many texts have kept tokens only; they are as they were."""
    places = {int(index): place for place, index in enumerate(plan.kept)}
    rows = []
    for text in texts:
        ids, tokens = strings(old, text)
        new_ids, new_tokens = strings(plan.tokenizer, text)
        if not set(ids) <= places.keys():
            # Its own tokens may be gone; it can be written all the same.
            assert plan.tokenizer.detokenize(new_ids) == old.detokenize(ids)
            continue
        assert new_tokens == tokens
        assert new_ids == [places[index] for index in ids]
        rows.append((ids, new_ids))
    before, after = map(padded, zip(*rows, strict=True))
    is_token = before["padding_mask"] == 1
    logits = np.asarray(model(before))[is_token]
    # One product each, of a row that is the same.
    np.testing.assert_allclose(
        np.asarray(plan.build()(after))[is_token],
        logits[..., plan.kept],
        rtol=1e-5,
        atol=1e-6,
    )
    return len(rows)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in MODELS
    ],
)
def test_texts_of_kept_tokens_have_the_same_tokens_and_logits(name):
    model = causal(name)
    old = model.preprocessor.tokenizer
    # About the half of what may go.
    size = 480 if MODELS[name][0] == "pairs" else 376
    plan = plan_vocabulary(model, lines()[::3], size)
    assert 0.7 < plan.covered < 1.0
    assert plan.tokens == (old.vocabulary_size() + 6, size)
    texts = [*lines()[:20], *" ".join(lines()[20:24]).split()]
    assert 10 <= check_law(model, plan, old, texts) < len(texts)
    new = plan.build().preprocessor
    assert type(new) is type(model.preprocessor)
    assert new.sequence_length == LENGTH
    assert new.tokenizer.vocabulary_size() == size
    for attribute in old._special_token_attrs:
        token = getattr(old, attribute)
        assert getattr(new.tokenizer, attribute) == token
        index = getattr(new.tokenizer, f"{attribute}_id")
        assert new.tokenizer.id_to_token(index) == token
    assert new.tokenizer.pad_token_id == 0
    # The file too has all that is needed.
    text = lines()[3]
    assert new(text)[0]["token_ids"].shape == (LENGTH,)


def tiny_pairs():
    """Returns a tokenizer of a to d, with two ways to "abc"."""
    import keras_nlp

    tokens = ["a", "b", "c", "d", "ab", "bc", "abc", "cd", "abcd"]
    merges = ["a b", "b c", "ab c", "c d", "a bc", "abc d"]
    return keras_nlp.tokenizers.BytePairTokenizer(
        {token: index for index, token in enumerate(tokens)}, merges
    )


@pytest.mark.parametrize(
    ("token", "closure"),
    [
        ("d", "d"),
        ("cd", "c d cd"),
        # Both of its ways, though "ab" is merged first.
        ("abc", "a b c ab bc abc"),
        ("abcd", "a b c d ab bc abc abcd"),
    ],
)
def test_a_token_comes_with_all_that_merges_into_it(token, closure):
    tokens = token_set(tiny_pairs())
    found = tokens.closure(tokens.tokenizer.vocabulary[token])
    assert [tokens.tokens[index] for index in sorted(found)] == closure.split()


def test_merges_go_with_their_tokens():
    tokens = token_set(tiny_pairs())
    # All but "bc" and "abcd".
    new = tokens.trimmed([0, 1, 2, 3, 4, 6, 7])
    assert new.vocabulary == {
        token: index
        for index, token in enumerate(["a", "b", "c", "d", "ab", "abc", "cd"])
    }
    assert new.merges == ["a b", "ab c", "c d"]
    for text, pieces in (("abcd", "abc d"), ("bcd", "b cd"), ("cdab", "cd ab")):
        assert strings(new, text)[1] == pieces.split()


def gpt2():
    import keras_nlp

    return keras_nlp.models.GPT2Backbone(
        vocabulary_size=9,
        num_heads=1,
        max_sequence_length=4,
        **SIZES,
    )


@pytest.mark.parametrize(
    ("texts", "size", "kept", "covered"),
    [
        # "abc" three times brings its parts; "cd" is used once.
        (["abc abc abc", "cd"], 7, "a b c d ab bc abc", 3 / 4),
        (["abc abc abc", "cd"], 8, "a b c d ab bc abc cd", 1.0),
        # "abc" would take three more: "cd", which is used less, fits.
        (["abc abc abc", "cd"], 5, "a b c d cd", 1 / 4),
        # Nothing but what any text needs; then what comes first fills up.
        (["a"], 4, "a b c d", 1.0),
        (["a"], 6, "a b c d ab bc", 1.0),
        (["cd"], None, "a b c d cd", 1.0),
        (np.array([[7, 7], [8, 7]]), 5, "a b c d cd", 3 / 4),
    ],
)
def test_the_most_used_stay_as_long_as_there_is_room(
    texts, size, kept, covered
):
    tokenizer = tiny_pairs()
    if isinstance(texts, list):
        texts = [word for text in texts for word in text.split()]
    plan = plan_vocabulary(gpt2(), texts, size, tokenizer=tokenizer, round_to=1)
    assert list(plan.tokenizer.vocabulary) == kept.split()
    assert plan.covered == pytest.approx(covered)
    assert plan.fixed == 4


def test_sizes_are_multiples():
    tokenizer = tiny_pairs()
    model = gpt2()
    for size, expected in ((None, 8), (9, 8), (7, 4)):
        plan = plan_vocabulary(
            model, ["abc"], size, tokenizer=tokenizer, round_to=4
        )
        assert len(plan.kept) == expected
    text = str(plan)
    assert "9 -> 4 tokens (44.4%), 0.00% of the texts' (1 different" in text
    assert "4 are special or single characters" in text


BERT = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT += ["a", "d", "y", "##a", "##d", "##y", "day", "##ay", "days", "ad"]


def bert(task, **kwargs):
    import keras_nlp

    keras.utils.set_random_seed(0)
    classes = keras_nlp.models
    tokenizer = classes.BertTokenizer(BERT, lowercase=True)
    tokenizer.split_on_cjk = False
    backbone = classes.BertBackbone(
        vocabulary_size=len(BERT), num_heads=1, max_sequence_length=6, **SIZES
    )
    preprocessor = getattr(classes, f"Bert{task}Preprocessor")(
        tokenizer, sequence_length=6
    )
    return getattr(classes, f"Bert{task}")(
        backbone, preprocessor=preprocessor, **kwargs
    )


def test_word_pieces_keep_single_characters_and_classify_as_before():
    model = bert("TextClassifier", num_classes=3)
    texts = ["Day day", "a day"]
    plan = plan_vocabulary(model, texts, 12, round_to=1)
    assert plan.tokenizer.get_vocabulary() == [BERT[0], *BERT[2:13]]
    smaller = plan.build()
    new = smaller.preprocessor.tokenizer
    assert (new.lowercase, new.split_on_cjk) == (True, False)
    assert [new.pad_token_id, new.mask_token_id, new.end_token_id] == [0, 4, 3]
    # A word whose piece is gone.
    assert strings(new, "day ad a")[1] == ["day", "a", "##d", "a"]
    x, y = (m.preprocessor(texts) for m in (model, smaller))
    np.testing.assert_array_equal(plan.kept[y["token_ids"]], x["token_ids"])
    np.testing.assert_allclose(smaller(y), model(x), atol=1e-6)
    # Others fill up before one that nothing stands for.
    more = trim_vocabulary(model, texts, 15, round_to=1)
    left = more.preprocessor.tokenizer.get_vocabulary()
    assert set(BERT) - set(left) == {"[unused0]"}


def test_a_masked_language_models_bias_follows():
    model = bert("MaskedLM")
    paths = [weight.path.rsplit("/")[-1] for weight in model.weights]
    place = paths.index("output_bias")
    model.weights[place].assign(np.arange(len(BERT), dtype="float32"))
    plan = plan_vocabulary(model, ["day"], 12, round_to=1)
    np.testing.assert_array_equal(plan.build().weights[place], plan.kept)


def test_an_output_that_is_not_tied_is_cut_too():
    import keras_nlp

    tokenizer = tiny_pairs()
    model = keras_nlp.models.LlamaBackbone(
        vocabulary_size=9, tie_word_embeddings=False, **SIZES, **HEADS
    )
    plan = plan_vocabulary(model, ["cd"], 5, tokenizer=tokenizer, round_to=1)
    old, new = (m.token_embedding for m in (model, plan.build()))
    np.testing.assert_array_equal(
        new.embeddings, old.embeddings.numpy()[plan.kept]
    )
    np.testing.assert_array_equal(
        new.reverse_embeddings, old.reverse_embeddings.numpy()[:, plan.kept]
    )


@pytest.mark.slow
def test_trimmed_shrunk_and_taught_from_a_cache(tmp_path):
    import kdtf

    trimmed = trim_vocabulary(causal("GPT2"), lines()[:50], 480)
    small = kdtf.shrink(trimmed, 0.98)
    assert small.backbone.vocabulary_size == 480
    assert small.preprocessor is trimmed.preprocessor
    # In a pipeline of data its tokens are the same.
    texts = lines()[:4]
    x, y, _ = trimmed.preprocessor(texts)
    ((piped, *_),) = tf.data.Dataset.from_tensors(texts).map(
        trimmed.preprocessor
    )
    np.testing.assert_array_equal(piped["token_ids"], x["token_ids"])
    trimmed.preprocessor = small.preprocessor = None
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    cache = kdtf.cache_teacher(trimmed, data, tmp_path / "cache", top_k=4)
    distiller = kdtf.Distiller(cache, small, alpha=0.1, temperature=1.0)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    before = small.get_weights()
    distiller.fit(cache.attach(data), verbose=0)
    after = small.get_weights()
    changed = [(a != b).any() for a, b in zip(before, after, strict=True)]
    assert any(changed)


@pytest.mark.slow
def test_a_trimmed_model_is_exported_with_its_tokenizer(tmp_path):
    import kdtf

    trimmed = trim_vocabulary(causal("Llama3"), lines()[:50], 480)
    result = kdtf.export_language_model(
        trimmed,
        tmp_path / "small.tflite",
        quantize=None,
        max_length=32,
        verify_prompts=["The"],
    )
    assert result.path.exists()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": keras.Sequential()}, ValueError, "must be a `keras_nlp`"),
        ({"tokenizer": None}, ValueError, "must have a preprocessor"),
        ({"tokenizer": object()}, ValueError, "must be one of"),
        ({"texts": "abc"}, TypeError, "must be strings in a list"),
        ({"texts": np.ones(3)}, TypeError, "integer array"),
        ({"texts": ["abc", 3]}, TypeError, "int among them"),
        ({"texts": []}, ValueError, "must have tokens"),
        ({"texts": np.array([99])}, ValueError, r"unknown: \[99\]"),
        ({"size": 3}, ValueError, "must be large enough"),
        ({"size": 0}, ValueError, "at least 1"),
        ({"round_to": 0}, ValueError, "at least 1"),
    ],
)
def test_bad_input_is_refused(change, error, match):
    tokenizer = tiny_pairs()
    arguments = {
        "model": gpt2(),
        "texts": ["abc"],
        "size": None,
        "tokenizer": tokenizer,
        "round_to": 1,
    }
    with pytest.raises(error, match=match):
        trim_vocabulary(**arguments | change)


def test_a_tokenizer_of_more_tokens_than_rows_is_refused():
    model = bert("TextClassifier", num_classes=2).backbone
    with pytest.raises(ValueError, match="more tokens than the model's table"):
        tokenizer = causal("GPT2").preprocessor.tokenizer
        trim_vocabulary(model, ["day"], tokenizer=tokenizer)
