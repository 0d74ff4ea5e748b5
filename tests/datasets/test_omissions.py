"""Reporting what readers and writers leave out."""

import ast
from pathlib import Path

import pytest

import detector.datasets
from detector.datasets.omissions import Omissions, numbered
from detector.errors import InvalidRequest


def half(number: int, where: str) -> int:
    if number % 2:
        raise InvalidRequest(f'{where} is {number}, which is odd')
    return number // 2


def test_an_item_is_returned_or_reported() -> None:
    """Items that a function refuses have a line and are counted; the others are returned in their order."""
    lines: list[str] = []
    omissions = Omissions(lines.append)
    assert omissions.each('number', numbered([2, 3, 4, 7], 'items'), half) == [1, 2]
    assert lines == ['items[1] is 3, which is odd', 'items[3] is 7, which is odd']
    omissions.add('file without a name', 'x has no name')
    omissions.add('file without a name', 'y and z have no name', 2)
    assert omissions.summary == '3 files without a name, 2 numbers'


def test_without_a_report_nothing_is_left_out() -> None:
    """Without a function to show lines, the first item that would be left out raises its error."""
    with pytest.raises(InvalidRequest, match='3, which is odd'):
        Omissions().each('number', numbered([2, 3], 'items'), half)
    with pytest.raises(InvalidRequest, match='a.json: x'):
        Omissions().within('a.json').add('field', 'x')


def test_lines_begin_with_the_file() -> None:
    """Lines begin with the name of the file, once, and all files have the same counts."""
    lines: list[str] = []
    omissions = Omissions(lines.append)
    view = omissions.within('a.json')
    view.add('field', 'x')
    view.add('field', 'a.json: y')
    assert lines == ['a.json: x', 'a.json: y']
    assert omissions.summary == '2 fields'


def test_classes_have_one_line_each_unless_expected() -> None:
    """Objects of other classes have one line for each class, and expected classes have none."""
    lines: list[str] = []
    omissions = Omissions(lines.append, expected=['dog'])
    omissions.add_classes({'car': ['a', 'b', 'c'], 'dog': ['d'], 'cat': ['e']})
    assert [line.partition(': the class')[0] for line in lines] == ['a, and 2 others', 'e']
    assert omissions.summary == '4 objects of another class'


def test_no_other_place_catches_refusals() -> None:
    """In the readers and writers, only `Omissions.each` catches the error of an item without raising again."""
    folder = Path(detector.datasets.__file__).parent
    found = {
        (path.name, function.name)
        for path in folder.glob('*.py')
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for handler in ast.walk(function)
        if isinstance(handler, ast.ExceptHandler)
        and handler.type is not None
        and 'InvalidRequest' in ast.unparse(handler.type)
        and not any(isinstance(step, ast.Raise) for step in ast.walk(handler))
    }
    assert found == {
        ('omissions.py', 'each'),
        # the imported annotation in a region's meta, which users may edit in Label Studio: the labels count
        ('coco_person.py', '_original'),
        # a YAML file beside the dataset that describes none
        ('yolo_description.py', '_is_description'),
    }
