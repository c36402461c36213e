"""The chapters as a reader runs them: cell by cell, in any order, and compared with what is committed."""

import ast
import shutil
import subprocess
import symtable
import sys
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

CHAPTERS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))


def scopes(table):
    yield table
    for child in table.get_children():
        yield from scopes(child)


def read_by(node):
    """The names of the notebook that an expression, or a function's definition, reads."""
    whole = symtable.symtable(ast.unparse(node), "cell", "exec")
    return {
        symbol.get_name()
        for table in scopes(whole)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (table is whole or symbol.is_global())
    }


def walk(statements, made, taken):
    """Add what statements make, and what they take that was not made before."""
    for statement in statements:
        targets, bodies = [], []
        for field, value in ast.iter_fields(statement):
            if isinstance(statement, ast.FunctionDef):
                continue
            if field in ("body", "orelse", "finalbody"):
                bodies.append(value)
            elif field in ("target", "targets"):
                targets += value if isinstance(value, list) else [value]
            else:
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.withitem):
                        targets += [part.optional_vars] * (part.optional_vars is not None)
                        part = part.context_expr
                    if isinstance(part, ast.expr):
                        taken |= read_by(part) - made
        if isinstance(statement, ast.FunctionDef):
            taken |= read_by(statement) - made
            made.add(statement.name)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
        for name in (node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)):
            if isinstance(name.ctx, ast.Store):
                made.add(name.id)
            elif name.id not in made:
                taken.add(name.id)
        for body in bodies:
            walk(body, made, taken)


def test_what_a_cell_makes_and_takes():
    code = (
        "from a import b as c\nx = [y for y in z if f(y)]\nfor i, (j, k) in enumerate(x):\n    u[i] = k + w\n"
        "with open(q) as file:\n    x += file\n\ndef g(m):\n    h = m + n\n    return h\n"
    )
    made, taken = set(), set()
    walk(ast.parse(code).body, made, taken)
    assert made == {"c", "x", "i", "j", "k", "file", "g"}
    assert taken == {"z", "f", "enumerate", "u", "w", "open", "q", "n"}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_cells_can_be_run_again_and_in_any_order(path):
    """What a cell takes from another is made by one cell alone, before it: nothing that runs later spoils it."""
    makers, takers = defaultdict(list), defaultdict(list)
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            made, taken = set(), set()
            walk(ast.parse(cell.source).body, made, taken)
            for names, where in ((made, makers), (taken, takers)):
                for name in names:
                    where[name].append(cell.id)
    order = [cell.id for cell in nbformat.read(path, 4).cells]
    for name in takers.keys() & makers.keys():
        (maker, *others), takes = makers[name], takers[name]
        assert not others, f"{name}: taken by {takes}, made by {makers[name]}"
        assert order.index(maker) < min(map(order.index, takes)), f"{name}: made by {maker}, after {takes}"


def test_what_is_compared_with_the_committed_outputs(tmp_path):
    """Text, but for bars, times and pictures. In the second notebook a number has changed, in the third one is missing."""
    shutil.copy(CHAPTERS[0].with_name("conftest.py"), tmp_path)
    code = """
import sys, time
from IPython.display import HTML, display
print('a bar', time.time(), file=sys.stderr)
print(f'{time.time():,.1f} ms, 65.2%')
display(HTML(f'<td>{time.time() % 9:.1f} min</td><img src="data:image/jpeg;base64,NEW">'))
"""
    html = '<td>100.5 min</td><img src="data:image/jpeg;base64,OLD">'
    data = {"text/html": html, "text/plain": "<IPython.core.display.HTML object>"}
    for name, text in (("same", "  71 ms, 65.2%\n"), ("number", "71 ms, 65.3%\n"), ("word", "71 ms\n")):
        outputs = [new_output("stream", name="stdout", text=text), new_output("display_data", data=data)]
        cell = new_code_cell(code, outputs=outputs, execution_count=1)
        nbformat.write(new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "."]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert {name: f"PASSED {name}.ipynb" in said for name in ("same", "number", "word")} == {
        "same": True, "number": False, "word": False,
    }, said  # fmt: skip
    assert "65.3%" in said and "2 failed, 1 passed" in said
