"""Values as the lines of a parameter cell: as ruff formats them, on as few lines as may be."""

WIDTH = 120  # columns of a line of code


def assignment(name: str, value: object, comment: str) -> str:
    """`name = value  # comment`, the comment above where the line is full; what needs several lines has as few as may
    be, which ruff is told to leave."""
    code, note = f"{name} = {literal(value)}", f"# {comment}" if comment else ""
    if len(code) <= WIDTH:
        line = f"{code}  {note}".rstrip()
        return line if len(line) <= WIDTH else f"{note}\n{code}"
    if isinstance(value, list | dict):
        opening, closing = code.partition(" = ")[2][0], code[-1]
        entries = [literal(v) for v in value] if isinstance(value, list) else [_entry(k, v) for k, v in value.items()]
        code = "\n".join([f"{name} = {opening}", *_filled(entries), closing])
    return f"{note}\n{code}  # fmt: skip".lstrip("\n")


def _entry(key: str, value: object) -> str:
    return f"{literal(key)}: {literal(value)}"


def _filled(entries: list[str]) -> list[str]:
    """Indented lines of as many entries as they hold."""
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + len(entry) + 2 <= WIDTH:
            lines[-1] += f" {entry},"
        else:
            lines.append(f"    {entry},")
    return lines


def literal(value: object) -> str:
    """The value as Python writes it, text between double quotes as ruff wants them."""
    if isinstance(value, dict):
        return "{" + ", ".join(_entry(key, entry) for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    text = repr(value)
    return f'"{text[1:-1]}"' if isinstance(value, str) and text[0] == "'" and '"' not in text else text
