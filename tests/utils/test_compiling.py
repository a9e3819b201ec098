"""Compilation of loops where nothing can be stored."""

import pytest


def test_loops_are_compiled_where_no_folder_is_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    caching = pytest.importorskip("numba.core.caching", reason="extra fast is missing")
    from snn_rl.utils.compiling import compiled

    def double(x: int) -> int:
        return 2 * x

    assert type(compiled()(double)._cache).__name__ == "FunctionCache"
    # a read-only package, and a home directory that is / (docker run --user)
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert compiled()(double)(21) == 42
