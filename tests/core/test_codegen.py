import pytest

from trimtab.core.codegen import define


@pytest.mark.parametrize(
    "body",
    [
        "return 'text'",
        'return "text"',
        "import os",
        "return ().__class__.__bases__",
        "global x",
        "return x # note",
        "return x\\\n",
        "return `x`",
        "@x",
        "return __builtins__",
    ],
)
def test_text_and_doors_to_the_interpreter_are_refused(body: str) -> None:
    with pytest.raises(ValueError, match="a rule: generated code may not hold"):
        define("f", ["def f(x):", f"  {body}"], {}, about="a rule")


@pytest.mark.parametrize("name", ["a b", "1", "__builtins__", "x;y"])
def test_names_must_be_names(name: str) -> None:
    with pytest.raises(ValueError, match="may not hold"):
        define("f", ["def f():", "  return 1"], {name: 1}, about="a rule")


def test_builtins_that_open_or_run_something_are_not_there() -> None:
    for call in ("open", "exec", "eval", "getattr"):
        with pytest.raises(NameError):
            define("f", ["def f():", f"  return {call}"], {}, about="a rule")()


def test_a_text_of_others_comes_in_as_a_value() -> None:
    column = "'); import os; ('"
    read = define("read", ["def read(row):", "  return row[n0]"], {"n0": column}, about="a read")
    assert read({column: 1.5}) == 1.5
