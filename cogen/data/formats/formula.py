r"""Formulas of Word (OMML) and of web pages (MathML) in a line of text: `x^2`, `(a+b)/c`, `\u2211_(i=1)^n i`."""

from __future__ import annotations

import re
from typing import Any

MAX_NESTING = 40  # of what is written with its structure; below, the signs alone
_ONE_TERM = re.compile(r"\w*|\([^()]*\)|\[[^][]*\]|.", re.DOTALL)
_UNSEEN = {"del", "moveFrom", "none", "mprescripts", "maligngroup", "malignmark"}


def formula_text(element: Any, depth: int = 0) -> str:
    """A formula as one line, every sign of it once.

    Args:
        element: of lxml, in any namespace; in Python's depth of calls, `MAX_NESTING` levels at most are used.
    """
    if not isinstance(element.tag, str):
        return ""
    name = local_name(element)
    if name in _UNSEEN or name.endswith("Pr"):
        return ""
    if depth > MAX_NESTING:
        return _flat("".join(element.itertext()))
    if name in ("semantics", "math") and (tex := _tex(element)):
        return tex
    parts = {key: formula_text(child, depth + 1) + _flat(child.tail) for key, child in _parts(element, name)}
    made = _structure(element, name, parts)
    if made is None:
        made = "".join(parts.values())
    elif name in _OF_ROLES:
        made += "".join(text for key, text in parts.items() if key not in _ROLES)
    return _flat(element.text) + made


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


def local_name(element: Any) -> str:
    """The name without its namespace or prefix."""
    return str(element.tag).rpartition("}")[2].rpartition(":")[2]


def _tex(element: Any) -> str:
    """The formula in TeX, where a page has it too."""
    for found in element.iter("{*}annotation", "annotation"):
        if "tex" in (found.get("encoding") or "").lower() and (found.text or "").strip():
            return _flat(found.text)
    return ""


def _parts(element: Any, name: str) -> list[tuple[Any, Any]]:
    """The children with a key each: in MathML by their place, in OMML by their name, numbered where it repeats."""
    named = [(c, local_name(c)) for c in element if isinstance(c.tag, str)]
    children = [c for c, own in named if not own.endswith("Pr") and not own.startswith("annotation")]
    keys: list[Any] = []
    for place, child in enumerate(children):
        own = local_name(child)
        keys.append(own if own in _ROLES and own not in keys else place)
    return list(zip(keys, children, strict=True))


_ROLES = {"num", "den", "e", "sub", "sup", "deg", "fName", "lim"}
_OF_ROLES = {"f", "sSup", "sSub", "sSubSup", "sPre", "rad", "nary", "func", "acc", "limLow", "limUpp"}
# The places of MathML's children, by the names that OMML has for the same.
_PLACES = {
    "mfrac": ("f", ("num", "den")),
    "msup": ("sSup", ("e", "sup")),
    "msub": ("sSub", ("e", "sub")),
    "msubsup": ("sSubSup", ("e", "sub", "sup")),
    "munder": ("sSub", ("e", "sub")),
    "mover": ("sSup", ("e", "sup")),
    "munderover": ("sSubSup", ("e", "sub", "sup")),
    "mroot": ("rad", ("e", "deg")),
}


def _structure(element: Any, name: str, parts: dict[Any, str]) -> str | None:
    if name in _PLACES:
        name, roles = _PLACES[name]
        rest = "".join(text for place, text in parts.items() if place >= len(roles))
        return (_structure(element, name, dict(zip(roles, parts.values(), strict=False))) or "") + rest
    values = list(parts.values())
    if name in ("limLow", "limUpp"):
        name = {"limLow": "sSub", "limUpp": "sSup"}[name]
        parts = {"e": parts.get("e", ""), "sub": parts.get("lim", ""), "sup": parts.get("lim", "")}
    match name:
        case "f":
            return f"{_group(parts.get('num', ''))}/{_group(parts.get('den', ''))}"
        case "sSup" | "sSub" | "sSubSup":
            return _group(parts.get("e", "")) + _scripts(parts, name)
        case "sPre":
            return _scripts(parts, "sSubSup") + parts.get("e", "")
        case "rad" | "msqrt":
            degree = f"[{parts['deg']}]" if parts.get("deg") else ""
            return f"\u221a{degree}{_group(parts['e'] if 'e' in parts else ''.join(values))}"
        case "nary":
            sign = _property(element, "chr", "\u222b")
            return f"{sign}{_scripts(parts, 'sSubSup')} {parts.get('e', '')}"
        case "func":
            return f"{parts.get('fName', '')} {_group(parts.get('e', ''))}"
        case "acc":
            return parts.get("e", "") + _property(element, "chr", "\u0302")
        case "d":
            between = _property(element, "sepChr", "|").join(values)
            return _property(element, "begChr", "(") + between + _property(element, "endChr", ")")
        case "mfenced":
            between = (element.get("separators") or ",")[:1].join(values)
            return f"{element.get('open') or '('}{between}{element.get('close') or ')'}"
        case "m" | "mtable":
            return f"[{'; '.join(values)}]"
        case "mr" | "mtr" | "mlabeledtr":
            return ", ".join(values)
        case "eqArr":
            return "; ".join(values)
        case "mmultiscripts":
            return "".join(values[:1]) + "".join(f"_{_group(v)}" for v in values[1:] if v)
        case "mphantom":
            return ""
        case "phant":
            return "" if _property(element, "show", "1") in ("0", "off", "false") else "".join(values)
    return None


def _scripts(parts: dict[Any, str], name: str) -> str:
    sub = f"_{_group(parts['sub'])}" if "Sub" in name and parts.get("sub") else ""
    sup = f"^{_group(parts['sup'])}" if "Sup" in name and parts.get("sup") else ""
    return sub + sup


def _group(text: str) -> str:
    text = text.strip()
    return text if _ONE_TERM.fullmatch(text) else f"({text})"


def _property(element: Any, name: str, default: str) -> str:
    """A value of an OMML object's properties; an empty one is no sign."""
    for found in element.findall(f"{{*}}{local_name(element)}Pr/{{*}}{name}"):
        return str(next(iter(found.attrib.values()), ""))
    return default
