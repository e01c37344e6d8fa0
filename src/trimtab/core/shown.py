"""Any value as text for people, whatever it is."""


def shown(value: object) -> str:
    """What a value looks like; never an error.

    >>> shown("x"), shown(2**80)[:6]
    ("'x'", '0x1000')
    """
    if isinstance(value, int) and value.bit_length() > 64:
        return hex(value)  # Python refuses to write very long ones in decimal
    try:
        return repr(value)
    except Exception as error:  # the caller's own `__repr__` may raise anything
        return f"<a {type(value).__name__} whose repr raises {type(error).__name__}>"
