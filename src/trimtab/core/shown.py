"""Any value as text for messages."""


def shown(value: object) -> str:
    """The `repr` of a value; never an error.

    >>> shown("x"), shown(10**20), shown(2**80_000)[:6]
    ("'x'", '100000000000000000000', '0x1000')
    """
    try:
        return repr(value)
    except Exception as error:  # the caller's own `__repr__` may raise anything
        if isinstance(value, int):
            return hex(value)  # Python refuses to write very long ones in decimal
        return f"<a {type(value).__name__} whose repr raises {type(error).__name__}>"
