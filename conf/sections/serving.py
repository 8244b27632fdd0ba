"""`stage serve`: where it listens, and what it takes."""

from dataclasses import dataclass

from conf.laws import about


@dataclass
class ServeConf:
    """`stage serve`."""

    host: str = about(
        "address that it listens at; one that other machines reach needs a key in the variable MSN_SERVE_KEY"
    )
    port: int = about("of that address; 0: any that is free", 0, 65535)
    page: bool = about("the page with its three rooms; false: the endpoints alone")
    batch_size: int = about("requests computed at a time, at most", 1, 4096)
    window_seconds: float = about("how long a request waits for others to be computed with it", 0.0, 10.0)
    most_waiting: int = about("requests that wait, at most; the next one is refused (429)", 1, 1 << 20)
    seconds_max: float = about("length of a sound that is sent or asked for, s, at most", 0.01, 3600.0)
    megabytes_max: float = about("size of a request, at most", 0.001, 1000.0)
    clips_max: int = about("sounds of a request, at most", 1, 1000)
    new_tokens_max: int = about("tokens of an answer that a request may ask for", 1, 1 << 20)
    best_of_max: int = about("sounds that a request may have drawn for the one that it gets", 1, 1000)
