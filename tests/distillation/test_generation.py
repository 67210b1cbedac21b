"""What a teacher writes: the model's own words, kept whole, masked right."""

import re

import keras
import numpy as np
import pytest

from kdtf.distillation.generation import generate_dataset
from kdtf.distillation.writing import Answers
from kdtf.distillation.writing import SamplerSettings
from kdtf.distillation.writing import Writer

# For its time; CI runs it.
pytestmark = pytest.mark.slow

PROMPTS = [[3, 4, 5], [6], [7, 8], [9, 10, 11, 12], [13]]
WIDTH = 10


@pytest.fixture
def teacher():
    return gpt2()


def gpt2(**kwargs):
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=WIDTH,
    )
    # So that words differ in their likelihood.
    for weight in backbone.weights:
        weight.assign(weight * 12.0)
    return keras_nlp.models.GPT2CausalLM(backbone, **kwargs)


def write(teacher, prompts=PROMPTS, **kwargs):
    kwargs = {"end_id": 2, "batch_size": 2, "verbose": 0, **kwargs}
    return generate_dataset(teacher, prompts, max_length=WIDTH, **kwargs)


def greedy_by_hand(model, prompt, end_id=None):
    """The likeliest continuation, by whole forward passes."""
    tokens = list(prompt)
    while len(tokens) < WIDTH and (
        len(tokens) == len(prompt) or tokens[-1] != end_id
    ):
        n = len(tokens)
        x = {
            "token_ids": np.array([tokens + [0] * (WIDTH - n)]),
            "padding_mask": np.arange(WIDTH)[None] < n,
        }
        logits = model(x, training=False)[0, n - 1]
        tokens.append(int(np.argmax(logits)))
    return tokens


def test_greedy_answers_are_the_likeliest_words(teacher):
    end_id = greedy_by_hand(teacher, PROMPTS[0])[6]
    x, y, weight = write(teacher, temperature=0.0, end_id=end_id)
    lengths = []
    for row, prompt in enumerate(PROMPTS):
        expected = greedy_by_hand(teacher, prompt, end_id)
        n = len(expected)
        lengths.append(n)
        assert x["token_ids"][row, :n].tolist() == expected
        assert x["padding_mask"][row].tolist() == [1] * n + [0] * (WIDTH - n)
        assert y[row, : n - 1].tolist() == expected[1:]
        first = len(prompt) - 1
        ones = [0] * first + [1] * (n - 1 - first) + [0] * (WIDTH - n + 1)
        assert weight[row].tolist() == ones
    assert min(lengths) < WIDTH, "no answer ended before the width"


@pytest.mark.slow
def test_xla_writes_the_same_words(teacher):
    expected = write(teacher, temperature=0.0)
    teacher.jit_compile = True
    assert same(write(teacher, temperature=0.0), expected)
    # Its random numbers depend on the seed, too.
    again, other = write(teacher, seed=1), write(teacher, seed=2)
    assert same(again, write(teacher, seed=1))
    assert not same(again, other)


def test_what_follows_an_end_token_is_padding(teacher):
    writer = Writer(
        teacher,
        max_length=6,
        end_id=(2, 9),
        settings=SamplerSettings(),
        argument="teacher",
    )
    # A prompt with an end token in it; an answer that is only an end token;
    # one that never ends; leftovers after the end.
    tokens = np.array(
        [[2, 5, 7, 9, 8, 2], [5, 2, 0, 0, 0, 0], [5, 6, 7, 8, 7, 6]], np.int32
    )
    answers = Answers(tokens, np.array([2, 1, 5]))
    x, y, weight = writer.to_windows(answers)
    assert x["token_ids"].tolist() == [
        [2, 5, 7, 9, 0, 0],
        [5, 2, 0, 0, 0, 0],
        [5, 6, 7, 8, 7, 6],
    ]
    assert x["padding_mask"].tolist() == [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert y.tolist() == [
        [5, 7, 9, 0, 0, 0],
        [2, 0, 0, 0, 0, 0],
        [6, 7, 8, 7, 6, 0],
    ]
    assert weight.tolist() == [
        [0, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
    ]


def test_the_room_for_an_answer_holds_no_end_token(teacher):
    # keras_nlp stops at once where a prompt is padded with the end token.
    expected = greedy_by_hand(teacher, PROMPTS[0])
    assert 0 not in expected
    x, _, _ = write(teacher, PROMPTS[:1], temperature=0.0, end_id=0)
    assert x["token_ids"][0].tolist() == expected


def test_sampling_follows_the_models_distribution(teacher):
    prompts = [[3, 4]] * 400
    x, _, _ = write(teacher, prompts, end_id=None, batch_size=400)
    logits = teacher(
        {"token_ids": np.array([[3, 4]]), "padding_mask": np.ones((1, 2), int)}
    )
    expected = np.array(keras.ops.softmax(logits[0, -1]), np.float64)
    drawn = np.bincount(x["token_ids"][:, 2], minlength=20) / 400
    # Five standard deviations of a share of 400 draws.
    limit = 5 * np.sqrt(expected * (1 - expected) / 400) + 1e-3
    assert (np.abs(drawn - expected) < limit).all()
    assert np.count_nonzero(drawn) > 3
    top = np.argsort(-expected)
    two, _, _ = write(teacher, prompts, end_id=None, batch_size=400, top_k=2)
    assert set(two["token_ids"][:, 2]) == set(top[:2])
    nucleus, _, _ = write(
        teacher, prompts, end_id=None, batch_size=400, top_p=0.5
    )
    size = int(np.searchsorted(np.cumsum(expected[top]), 0.5)) + 1
    assert set(nucleus["token_ids"][:, 2]) <= set(top[:size])


def test_seeds_decide_and_batches_differ(teacher):
    prompts = [[3]] * 4
    first, again, other = (
        write(teacher, prompts, seed=seed, end_id=None)[0]["token_ids"]
        for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (first[:2] != first[2:]).any()


def test_the_users_model_is_left_as_it_was(teacher):
    sampler, optimizer = teacher.sampler, teacher.optimizer
    x = {
        "token_ids": np.full((1, WIDTH), 3),
        "padding_mask": np.arange(WIDTH)[None] < 2,
    }
    teacher.generate(dict(x), stop_token_ids=None)
    function = teacher.generate_function
    state = [np.array(v) for v in sampler.variables]
    write(teacher)
    assert teacher.sampler is sampler
    assert teacher.optimizer is optimizer
    assert teacher.generate_function is function
    for before, variable in zip(state, sampler.variables, strict=True):
        assert (before == np.array(variable)).all()


def test_a_model_that_was_never_compiled_gets_no_sampler():
    model = gpt2(compile=False)
    write(model, PROMPTS[:1])
    assert not hasattr(model, "sampler")


def test_texts_go_through_the_models_preprocessor():
    import keras_nlp

    from kdtf import data

    tokenizer = data.train_tokenizer("the cat, the hat", vocabulary_size=260)
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=12
    )
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=260,
        num_layers=1,
        num_heads=1,
        hidden_dim=4,
        intermediate_dim=4,
        max_sequence_length=WIDTH,
    )
    teacher = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    x, _, weight = write(teacher, ["cat", "a hat"], end_id="auto")
    start = tokenizer.start_token_id
    for row, text in enumerate(["cat", "a hat"]):
        prompt = [start, *np.array(tokenizer(text)).tolist()]
        assert x["token_ids"][row, : len(prompt)].tolist() == prompt
        assert weight[row].argmax() == len(prompt) - 1


@pytest.fixture
def kept(teacher, tmp_path):
    """A folder with all answers, and these."""
    whole = write(teacher, path=tmp_path / "answers")
    return tmp_path / "answers", whole


def same(first, second):
    flat = keras.tree.flatten
    pairs = list(zip(flat(first), flat(second), strict=True))
    assert pairs
    return all((a == b).all() for a, b in pairs)


def test_a_killed_run_ends_with_the_same_answers(teacher, kept, monkeypatch):
    folder, whole = kept
    names = sorted(path.name for path in folder.iterdir())
    assert names == [*(f"part-{i:06d}.npz" for i in range(3)), "run.json"]
    assert same(whole, write(teacher))
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "part-000001.npz").unlink()
    (folder / "part-000002.npz").unlink()
    calls = []
    original = Writer.write

    def counted(self, *args, **kwargs):
        calls.append(kwargs["seed"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Writer, "write", counted)
    assert same(whole, write(teacher, path=folder))
    assert calls == [(0, 1), (0, 2)]
    assert written == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_batch_is_kept_before_the_next_is_written(
    teacher, tmp_path, monkeypatch
):
    original = Writer.write

    def killed(self, prompts, *, seed, num_rows):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return original(self, prompts, seed=seed, num_rows=num_rows)

    monkeypatch.setattr(Writer, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        write(teacher, path=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "part-000000.npz",
        "run.json",
    ]


def test_damage_is_found_wherever_it_is(teacher, kept):
    folder, _ = kept
    part = folder / "part-000001.npz"
    good = part.read_bytes()
    found = 0
    for place in range(0, len(good), max(1, len(good) // 40)):
        bad = bytearray(good)
        bad[place] ^= 0x10
        part.write_bytes(bytes(bad))
        try:
            again = write(teacher, path=folder)
        except ValueError as error:
            assert re.search("part-000001.npz.*damaged", str(error))
            found += 1
        else:
            # Dates and the like in the zip's headers: the answers are whole.
            assert same(again, kept[1])
    assert found > 20
    part.write_bytes(good[:-30])
    with pytest.raises(ValueError, match="part-000001.npz.*damaged"):
        write(teacher, path=folder)
    # A whole part in the wrong place.
    part.write_bytes((folder / "part-000000.npz").read_bytes())
    with pytest.raises(ValueError, match="part-000001.npz.*damaged"):
        write(teacher, path=folder)


def test_a_folder_of_another_run_is_refused(teacher, kept):
    folder, _ = kept
    with pytest.raises(ValueError, match=r"answers differ in \['seed'\]"):
        write(teacher, path=folder, seed=1)
    with pytest.raises(ValueError, match=r"differ in \['prompts'\]"):
        write(teacher, [*PROMPTS[:-1], [14]], path=folder)
    weight = teacher.weights[-1]
    weight.assign(weight + 1.0)
    with pytest.raises(ValueError, match=r"differ in \['teacher'\]"):
        write(teacher, path=folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"end_id": "auto"}, "end_id='auto', teacher.preprocessor=None"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[3], []]}, r"prompt 1 of shape \(0,\)"),
        ({"prompts": [[3] * WIDTH]}, r"prompt 0 of shape \(10,\)"),
        ({"prompts": ["cat"]}, "'cat', preprocessor=None"),
    ],
)
def test_wrong_settings_are_refused(teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        write(teacher, **settings)


def test_a_length_beyond_the_positions_is_refused(teacher):
    for length in (1, WIDTH + 1):
        with pytest.raises(ValueError, match=f"max_length={length}.*10 posit"):
            generate_dataset(teacher, PROMPTS, max_length=length, end_id=2)


def test_only_language_models_write(tiny_cnn):
    with pytest.raises(TypeError, match="`teacher` must .* type=Sequential"):
        write(tiny_cnn)
