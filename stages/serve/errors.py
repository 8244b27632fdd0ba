"""What a server answers to a request that it does not take."""


class RefusedRequest(Exception):
    """A request's mistake: a status of HTTP (4xx), and one sentence that says what came and what is allowed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text
