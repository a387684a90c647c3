def matte() -> None:
    """x"""
