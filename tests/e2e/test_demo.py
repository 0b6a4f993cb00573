"""What `make demo` shows, against a server with small pools."""

import re

from tools.demo import show


def test_a_document_merges_workers_and_no_chat_is_lost(automatic_servers, capsys):
    server = automatic_servers[0]
    assert show(server.url, chats=2, seconds=20.0) == 0
    told = capsys.readouterr().out
    for text in (
        r"a document of about [\d,]+ tokens arrives",
        r"router: ranks \[0, 1\] to degree 2",
        r"it had [\d,]+ tokens and is answered after",
        r"router: ranks \[0, 1\] to degree 1",
        r"chats since the document came: [1-9]\d* tokens, .*, 0 lost",
    ):
        assert re.search(text, told), f"{text}: {told}"
