def networks() -> None:
    """x"""
