"""Ask a server for one chat completion: python3 tests/bare/ask.py URL. Exit code 0 if it answers.

Needs nothing but Python: a bare Debian has no curl.
"""

import json
import sys
import urllib.request

_QUESTION = {
    "model": "default",
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    "max_tokens": 16,
    "temperature": 0,
}


def main(url: str) -> int:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(_QUESTION).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)["choices"][0]["message"]["content"]
    except OSError:
        return 1
    print(f"answer: {answer!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
