"""Tables are read as they are written, or a row is skipped with its reason; no cell of the text is cut.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.data import Document
from cogen.data.document import Item, Note, Skipped
from cogen.data.formats import bytes_of, read_file

A = "The pump was started, the seal was dry, and noted"
B = "A valve, of the second line, was replaced"


def items(folder: Path, content: str | bytes, name: str = "a.csv") -> list[Item]:
    """What reading gives; its bytes add up to those of the file."""
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
    found = list(read_file(path, name))
    assert sum(map(bytes_of, found)) == len(data)
    assert not [i for i in found if isinstance(i, Skipped) and "no document was made" in i.reason]
    return found


def texts(found: list[Item]) -> list[str]:
    return [i.text for i in found if isinstance(i, Document)]


def notes(found: list[Item]) -> str:
    return "\n".join(i.text for i in found if isinstance(i, Note) and i.text)


def skipped(found: list[Item]) -> list[tuple[str, str]]:
    return [(Path(i.file).name, i.reason) for i in found if isinstance(i, Skipped)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"id,text\n1,{A}\n2,{B}\n", "delimiter ','"),
        (f"id;text\n1;{A}\n2;{B}\n", "delimiter ';'"),
        (f"id\ttext\n1\t{A}\n2\t{B}\n", "delimiter tab"),
        (f"id|text\n1|{A}\n2|{B}\n", "delimiter '|'"),
        (f"id^text\n1^{A}\n2^{B}\n", "delimiter '^'"),
        (f"id~text\n1~{A}\n2~{B}\n", "delimiter '~'"),
        (f"id:text\n1:{A}\n2:{B}\n", "delimiter ':'"),
        (f"id\x1ftext\n1\x1f{A}\n2\x1f{B}\n", "delimiter unit separator"),
        (f"id    text\n1     {A}\n2     {B}\n", "delimiter two or more spaces"),
        (f"id text\n1 {A}\n2 {B}\n", "delimiter space"),
        (f"id | text\n1 | {A}\n2 | {B}\n", "delimiter '|'"),
        (f"sep=;\nid;text\n1;{A}\n2;{B}\n", "delimiter ';'; header in line 2"),
        (f'sep=|\r\n"id"|"text"\r\n1|{A}\r\n2|{B}\r\n', "delimiter '|'; header in line 2"),
        (f"text\n{A}\n{B}\n", "one column; columns: text = 'text'"),
        (f'"text"\n"{A}"\n"{B}"\n', "one column; columns: text = 'text'"),
        (f"﻿text\n{A}\n{B}\n", "one column; columns: text = 'text'"),
        (f"Log of the plant, May 2024\nid,text\n1,{A}\n2,{B}\n", "header in line 2"),
        (f"Log of the plant\n\n\nid,text\n1,{A}\n2,{B}\n", "header in line 4"),
        (f"Log of the plant;;\n;;\nid;text;\n1;{A};\n2;{B};\n", "header in line 3"),
        (f"# made by a tool\n# 2024-05-01\nid,text\n1,{A}\n2,{B}\n", "not read: the line '# 2024-05-01'"),
        (f"Log of the plant\ntext\n{A}\n{B}\n", "not read: the line 'Log of the plant'"),
        (f'\n\nid,text\n1,"{A}"\n\n2,"{B}"\n\n', "delimiter ','"),
        (f'id, text\n1, "{A}"\n2, "{B}"\n', "delimiter ','"),
        (f'id,text\n1, "{A}"\n2,  "{B}" \n', "delimiter ','"),
        (f"id,text\n1,'{A}'\n2,'{B}'\n", "cells in single quotes"),
        (f"'id','text'\n'1','{A}'\n'2','{B}'\n", "cells in single quotes"),
        (f"text,id\n{A},1\n{B},2\n", "columns: text = 'text', id = 'id'"),
        (f"text,id,source\n{A},T-1,\n{B},T-2,log\n", "columns: text = 'text', id = 'id', source = 'source'"),
        (f"id,text\r\n1,{A}\r\n2,{B}\r\n", "delimiter ','"),
        (f"id,text\r1,{A}\r2,{B}\r", "delimiter ','"),
        (f'id,text\r1,"{A}"\r2,{B}', "delimiter ','"),
        (f'id,text,,\n1,"{A}",,\n2,"{B}",,\n', "delimiter ','"),
        (f"id;text\n1;{A};\n2;{B};\n", "delimiter ';'"),
        (f'id,text\n1,"{A}",\n2,"{B}",\n', "delimiter ','"),
        (f',id,text\n0,1,"{A}"\n1,2,"{B}"\n', "columns not read: '' (numbers)"),
        (f"id,Text\n1,{A}\n2,{B}\n", "columns: text = 'Text'"),
        (f'ID," TEXT "\n1,{A}\n2,{B}\n', "columns: text = ' TEXT ', id = 'ID'"),
        (f"id,body\n1,{A}\n2,{B}\n", "columns: text = 'body'"),
        (f'nr,body\n1,"{A}"\n2,"{B}"\n', "columns not read: 'nr' (numbers)"),
        (f"Plant log\n\nnr;body\n1;{A}\n2;{B}\n", "header in line 3"),
        (f"nr,body\n1,{A}\n2,{B}\n", "columns: text = 'body'"),
        (f"day;value;text\n1.5.;3,5;{A}\n2.5.;1.000,25;{B}\n", "columns not read: 'value' (numbers)"),
        (f"value;text\n3,5;{A}\n4,25;{B}\n", "delimiter ';'"),
    ],
)
@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
def test_two_rows_are_read_however_they_are_written(tmp_path: Path, content: str, said: str, code: str) -> None:
    """Red: the delimiter counted in the header; no join; the first line taken for the header; no lone \\r."""
    found = items(tmp_path, content.encode(code))
    assert texts(found) == [A, B] and skipped(found) == []
    assert said in notes(found)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_tsv_with_other_separators_is_read_as_what_it_is(tmp_path: Path, name: str) -> None:
    found = items(tmp_path, f'id;text\n1;"{A}; and more"\n2;{B}\n', name)
    assert texts(found) == [f"{A}; and more", B] and "delimiter ';'" in notes(found)


def test_backslashes_before_quotes_are_no_part_of_the_text(tmp_path: Path) -> None:
    rows = 'id,text\n1,"He said \\"stop\\", and left"\n2,"in C:\\\\x, too"\n3,"two\nlines, \\"quoted\\""\n4,a \\"b\\"\n'
    found = items(tmp_path, rows)
    assert texts(found) == ['He said "stop", and left', "in C:\\x, too", 'two\nlines, "quoted"', 'a "b"']
    assert "a backslash before quotes in cells" in notes(found)


def test_a_backslash_at_the_end_of_a_cell_is_no_escape(tmp_path: Path) -> None:
    found = items(tmp_path, 'id,text\n1,"C:\\dir, x\\"\n2,"D:\\""\n3,"say ""hi"", then"\n'.replace('\\""', '\\"'))
    assert texts(found) == ["C:\\dir, x\\", "D:\\", 'say "hi", then']


@pytest.mark.parametrize(
    "cell",
    [
        'A 3/4" pipe, and more',
        'A 3/4" pipe of 2" length',
        '"Alarm 7 reset" is what he wrote',
        '"Alarm, 7" is, what he wrote',
        'he said "stop", and left',
        '"He said "stop", and left"',
        "'tis the season, and 'twas",
        "one,,, two,",
        "  two spaces before",
        "a \\ b \\n c",
        "a\u2028b\x0bc\x85d",
    ],
)
def test_quotes_that_quote_nothing_are_characters(tmp_path: Path, cell: str) -> None:
    """The row is read as it is written. Red: the csv module's reading of it."""
    found = items(tmp_path, f"id,text\n1,plain\n2,{cell}\n3,last\n")
    assert texts(found) == ["plain", cell, "last"]
    assert texts(items(tmp_path, f"text\nplain words\n{cell}\nlast\n")) == ["plain words", cell, "last"]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    cells = ['"Alarm 7" is what', '"Overheated, and', '3/4" pipe', '"all"', '""', "'x", 'a "" b']
    found = items(tmp_path, "id\ttext\n" + "".join(f"{i}\t{cell}\n" for i, cell in enumerate(cells)), "a.tsv")
    assert texts(found) == cells
    assert "4 texts in quotes, which are kept" in notes(found)


def test_legitimate_cells_of_several_lines_are_whole(tmp_path: Path) -> None:
    """Quoted as the standard says: prose, lists, blank lines, numbers, an embedded table. Red: any line refused."""
    cells = [
        "A beam, which\ncarries load, and\nholds",
        "Steps:\n\n1. open, then\n2. close, and\n\n3. done",
        'He said ""stop"",\nand left',
        "Table:\nid,text\n1,foo\n2,bar",
        "x,y\n10,5\n20,7\n30,9",
        "ACME, Inc.\n12, Main Road\n8000, Town",
        "line\r\nend",
        "\n\nblank before and after\n\n",
    ]
    rows = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells, 1)) + "9,last\n"
    found = items(tmp_path, "id,text\n" + rows)
    assert texts(found) == [*(cell.replace('""', '"') for cell in cells), "last"] and skipped(found) == []
    swapped = "".join(f'"{cell}",T-{i}\n' for i, cell in enumerate(cells, 1) if "bar" not in cell)
    assert len(texts(items(tmp_path, "text,id\n" + swapped))) == len(cells) - 1
    alone = "".join(f'"{cell}"\n' for cell in cells)
    assert texts(items(tmp_path, "text\n" + alone)) == [cell.replace('""', '"') for cell in cells]


L = [
    "The pump was started at noon",
    '"Overheated bearing and the operator had to stop',
    "The valve was to be replaced",
    "The filter was cleaned",
]


@pytest.mark.parametrize(
    "last",
    [
        ['A 3/4" pipe was cut'],
        ['The pipe of 3/4"'],
        ['He said "all is well"'],
        ['"Alarm" was on'],
        ['""', 'and "more" here'],
        ['"all of it, quoted"'],
        ["no quote at all"],
        ['""'],
    ],
)
@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id,text", "{i},{t}"),
        ("id;text", "{i};{t}"),
        ("id,text", "T-{i}x,{t}"),
        ("id,text,source", "{i},{t},log"),
        ("text,id", "{t},{i}"),
        ("text|id|source", "{t}|{i}|book {i}"),
        ("day,text", "2024-05-1{i},{t}"),
        ("day,text", "2024-05-01 10:0{i},{t}"),
        ("name,title,text", "Smith,Night shift,{t}"),
    ],
)
def test_a_quote_that_is_never_closed_is_refused_with_the_rest(
    tmp_path: Path, header: str, row: str, last: list[str]
) -> None:
    """Whatever ends the cell. Red: a cell that ends at any quote before a delimiter or a line end."""
    rows = [row.format(i=i, t=text) for i, text in enumerate([*L, *last, "Last row"])]
    found = items(tmp_path, "\n".join([header, *rows]) + "\n")
    assert texts(found) == [L[0]]
    ((where, why),) = skipped(found)
    assert where == "a.csv, line 3" and "expected the end of the quoted cell that begins here" in why


def test_a_quote_that_is_never_closed_in_one_column(tmp_path: Path) -> None:
    """Only other quotes that quote nothing tell it there."""
    found = items(tmp_path, 'text\nA 3/4" pipe\n"Overheated bearing\nThe valve\nA pipe of 3/4"\nLast\n')
    assert texts(found) == ['A 3/4" pipe'] and skipped(found)[0][0] == "a.csv, line 3"


def test_a_row_that_does_not_fit_is_skipped_with_its_reason(tmp_path: Path) -> None:
    found = items(tmp_path, "id,text,source\n1,fine,S\n2,one, two, and three,S\n3\n4,no source\n5,ok,T\n")
    assert texts(found) == ["fine", "no source", "ok"]
    assert skipped(found) == [
        ("a.csv, line 3", "expected 3 cells, as in the header, got 5"),
        ("a.csv, line 4", "expected 3 cells, as in the header, got 1"),
    ]
    assert "1 rows without the last cells" in notes(found)


def test_a_missing_cell_does_not_move_another_into_the_text(tmp_path: Path) -> None:
    """Red: a short row read by its position alone."""
    found = items(tmp_path, "id,title,text,source\n1,A title,The text one,S\n2,The text two,S\n3,B c,The text 3,S\n")
    assert texts(found) == ["The text one", "The text 3"] and skipped(found)[0][0] == "a.csv, line 3"
    found = items(tmp_path, "id,text,source\n1,The text one,S\nThe text two,S\n3,The text 3,S\n")
    assert texts(found) == ["The text one", "The text 3"] and skipped(found)[0][0] == "a.csv, line 3"


def test_an_unquoted_text_on_two_lines_is_skipped_where_it_has_no_id(tmp_path: Path) -> None:
    found = items(tmp_path, "id,text\n1,first line\nof a note\n2,second\n")
    assert texts(found) == ["first line", "second"] and skipped(found)[0][0] == "a.csv, line 3"


def test_a_quoted_text_with_a_cell_too_many_is_skipped(tmp_path: Path) -> None:
    found = items(tmp_path, 'id,text\n1,"one, two",three\n2,"four",\n')
    assert texts(found) == ["four"] and skipped(found) == [
        ("a.csv, line 2", "expected 2 cells, as in the header, got 3")
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("1,The pump was started\n2,The valve was closed\n", "a first line that names the columns"),
        ("The pump was started.\nThe valve was closed.\n", "a first line that names the columns"),
        ("The pump was started, and it ran.\nThe valve was closed, and left.\n", "columns"),
        ("text,text\na,b\n", "got columns 'text', 'text'"),
        ("Text,TEXT\na,b\n", "got columns 'Text', 'TEXT'"),
        ("body,notes\na b,c d\n", "got columns 'body', 'notes'"),
        ("id,text\n1;foo\n2;bar baz\n", "expected ',' between cells, as in the header, got ';'"),
        ("id,text\n1;foo, bar\n2;bar\n3;bar, baz\n", "expected ',' between cells, as in the header, got ';'"),
        ("id;text\n1\tfoo\n2\tbar baz\n", "got tab"),
        ("i\0d\0,\0t\0e\0x\0t\0\n\0", "got zero bytes"),
        ('id,"text\n1,foo\n', "the end of the quoted cell"),
    ],
)
def test_what_is_no_table_is_refused_with_what_it_has(tmp_path: Path, content: str, why: str) -> None:
    found = items(tmp_path, content)
    assert texts(found) == [] and why in skipped(found)[-1][1]


def test_an_exact_name_goes_before_another(tmp_path: Path) -> None:
    """Red: the first name of equal ones without case."""
    found = items(tmp_path, "Text,text,id,ID\nwrong words are here,right,1,2\n")
    (document,) = [i for i in found if isinstance(i, Document)]
    assert (document.text, document.id) == ("right", "1")
    assert "columns not read: 'Text' (text, 74% of the characters), 'ID' (numbers)" in notes(found)


def test_a_column_of_prose_that_is_not_read_is_said_with_its_share(tmp_path: Path) -> None:
    found = items(tmp_path, "id,text,notes,n\n" + f"1,{'x' * 30},{'some words ' * 3},5\n" * 3)
    assert "columns not read: 'notes' (text, 51% of the characters), 'n' (numbers)" in notes(found)


def test_blank_rows_repeated_headers_and_empty_texts(tmp_path: Path) -> None:
    found = items(tmp_path, "id,text\n1,a\n,\n , \nid,text\n2,\n3,b\n")
    assert texts(found) == ["a", "b"]
    assert skipped(found) == [("a.csv, line 6", "expected a text, got an empty cell")]
    assert "no documents below the header" in notes(items(tmp_path, "id,text\n"))


def test_zero_bytes_and_bad_encodings_cost_their_rows(tmp_path: Path) -> None:
    found = items(tmp_path, b"id\ttext\n1\ta\n2\tb\0b\n3\tcaf\xe9\n4\td\n", "a.tsv")
    assert texts(found) == ["a", "d"] and [where for where, _ in skipped(found)] == ["a.tsv, line 3", "a.tsv, line 4"]


def test_thousands_of_columns(tmp_path: Path) -> None:
    names = ["id", *(f"c{i}" for i in range(3000)), "text"]
    found = items(tmp_path, ",".join(names) + "\n" + ("1," + "5," * 3000 + "one, two\n") * 3)
    assert texts(found) == ["one, two"] * 3 and "and 2988 more" in notes(found)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_header_in_another_encoding_ends_the_table(tmp_path: Path, name: str) -> None:
    """Red: the lines below it seen first, and its bytes taken for theirs."""
    found = items(tmp_path, b"id\ttext\tcaf\xe9\n1\tone\tx\n2\ttwo\ty\n", name)
    assert texts(found) == [] and "expected UTF-8" in skipped(found)[0][1]
