"""Processes that share a folder: who makes what."""

import os
import threading
import time

import pytest

from kdtf.recipes.compression import claims
from kdtf.recipes.compression.claims import Claims
from kdtf.recipes.compression.ledger import Ledger


def test_one_of_many_gets_it(tmp_path):
    start = threading.Barrier(8)
    inside, most = [], []

    def work():
        start.wait()
        with Claims(tmp_path).wait("a"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_it_is_free_after_an_error(tmp_path):
    def fail():
        with Claims(tmp_path).take("a"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with Claims(tmp_path).take("a") as ours:
        assert ours


def test_that_of_a_dead_process_is_taken_over(tmp_path):
    path = tmp_path / "a.claim"
    path.write_text("elsewhere:1\n")
    with Claims(tmp_path).take("a") as ours:
        assert not ours
    long_ago = time.time() - 61.0
    os.utime(path, (long_ago, long_ago))
    with Claims(tmp_path).take("a") as ours:
        assert ours
        assert path.read_text() != "elsewhere:1\n"


def test_a_claim_stays_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(claims, "_STALE_SECONDS", 0.2)
    with Claims(tmp_path).take("a"):
        time.sleep(0.4)
        with Claims(tmp_path).take("a") as again:
            assert not again


def test_the_ledger_claims_by_all_settings(tmp_path):
    first, second = (Ledger(tmp_path, {"seed": seed}) for seed in (0, 1))
    with first.claim({"a": 1}) as ours, first.claim({"a": 1}) as again:
        assert (ours, again) == (True, False)
        with first.claim({"a": 2}) as other, second.claim({"a": 1}) as seed:
            assert (other, seed) == (True, True)
