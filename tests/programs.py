"""The programs of attacks, as XLA compiled them."""

import contextlib

import pytest

from nriqa_jax import asking


@contextlib.contextmanager
def recorded():
    """Texts of all programs that functions of a model and the model itself run meanwhile."""
    texts = []

    def recording(program):
        def run(*arguments):
            texts.append(program.lower(*arguments).compile().as_text())
            return program(*arguments)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_advance", "_answer", "_together"):
            patch.setattr(asking, name, recording(getattr(asking, name)))
        yield texts
