"""The table of ambiguous requests: lengths, transfer codings, chunks, header lines, targets, versions and pipelining."""

from __future__ import annotations

from smuggling import (
    BROWSER,
    CARRIER,
    DESYNC,
    ENDGAME,
    FUNKY,
    H2C,
    HIDDEN_GET,
    HIDDEN_POST,
    LENGTH,
    PATH,
    PROBE,
    SECTION,
    Expect,
    Row,
    chunk,
    chunked,
    get,
    measured,
    post,
)

SERVED, REFUSED, ANSWERED, WAITS = Expect.SERVED, Expect.REFUSED, Expect.ANSWERED, Expect.WAITS
EITHER, CLOSED = Expect.EITHER, Expect.CLOSED
END = b"0\r\n\r\n"
BODY = chunk(CARRIER) + END
BOTH_ENDS = END + HIDDEN_POST
"""A body that is empty by its chunks, with a hidden request behind; all of it is the body by its length."""

LENGTHS = (
    *(
        Row(f"content-length {name}", post(b"content-length: " + value, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.3; {PROBE}")
        for name, value in (
            ("with a plus", b"+%d" % LENGTH),
            ("with a minus", b"-%d" % LENGTH),
            ("of minus zero", b"-0"),
            ("with a space inside", b"%d %d" % (LENGTH // 10, LENGTH % 10)),
            ("with a tab inside", b"%d\t%d" % (LENGTH // 10, LENGTH % 10)),
            ("in hexadecimal", b"0x%x" % LENGTH),
            ("in octal of Python", b"0o%o" % LENGTH),
            ("with an underscore", b"%d_%d" % (LENGTH // 10, LENGTH % 10)),
            ("with a fraction", b"%d.0" % LENGTH),
            ("with an exponent", b"%de0" % LENGTH),
            ("with a letter", b"%dx" % LENGTH),
            ("with a semicolon", b"%d; x" % LENGTH),
            ("in quotes", b'"%d"' % LENGTH),
            ("in full-width digits", "\uff11\uff12".encode()),
            ("in superscript digits", "¹²".encode()),
            ("with a vertical tab", b"\x0b%d" % LENGTH),
            ("with a form feed", b"\x0c%d" % LENGTH),
            ("with a NUL", b"%d\x00" % LENGTH),
            ("with a bare CR", b"%d\r" % LENGTH),
            ("beyond 64 bits", b"18446744073709551616"),
            ("of 64 bits and its own", b"%d" % (2**64 + LENGTH)),
            ("of 100 digits", b"9" * 100),
            ("as an equal list", b"%d, %d" % (LENGTH, LENGTH)),
            ("as a list without a space", b"%d,%d" % (LENGTH, LENGTH)),
            ("as a different list", b"%d, 5" % LENGTH),
            ("as a list with an empty element", b"%d," % LENGTH),
            ("of a comma", b","),
            ("without a value", b""),
            ("of spaces", b"   "),
            ("of an asterisk", b"*"),
            ("in brackets", b"(%d)" % LENGTH),
        )
    ),
    Row("content-length with a leading zero", post(b"content-length: 0%d" % LENGTH, body=CARRIER + HIDDEN_POST), SERVED, f"{SECTION}6.2: 1*DIGIT"),
    Row("content-length with 30 leading zeros", post(b"content-length: " + b"0" * 30 + b"%d" % LENGTH, body=CARRIER), SERVED, f"{SECTION}6.2: 1*DIGIT"),
    Row("content-length with spaces around", post(b"content-length:   %d  \t" % LENGTH, body=CARRIER + HIDDEN_POST), SERVED, "RFC 9110, 5.5: OWS"),
    Row("content-length in capitals", post(b"CONTENT-LENGTH: %d" % LENGTH, body=CARRIER + HIDDEN_POST), SERVED, "RFC 9110, 5.1"),
    Row("content-length repeated", post(b"content-length: %d" % LENGTH, b"content-length: %d" % LENGTH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.3"),
    Row("content-length repeated with another value", post(b"content-length: %d" % LENGTH, b"content-length: 0", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.3"),
    Row("content-length repeated, the lower one first", post(b"content-length: 0", b"content-length: %d" % LENGTH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.3"),
    Row("content-length repeated in another case", post(b"content-length: %d" % LENGTH, b"Content-Length: 1", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.3"),
    Row("content-length of 0 before a body", post(b"content-length: 0", body=HIDDEN_POST), ANSWERED, f"{BROWSER}: CL.0"),
    Row("no content-length before a body", post(body=HIDDEN_POST), ANSWERED, f"{BROWSER}: CL.0"),
    Row("GET with a body of its length", get(b"content-length: 37") + b"GET /smuggled HTTP/1.1\r\nhost: xxxxxx\r\n", SERVED, f"{DESYNC}: GET with a body"),
    Row("GET with a hidden request as its body", get(b"content-length: %d" % len(HIDDEN_POST)) + HIDDEN_POST, SERVED, f"{BROWSER}: CL.0"),
    Row("HEAD with a hidden request as its body", get(b"content-length: %d" % len(HIDDEN_GET), method=b"HEAD") + HIDDEN_GET, SERVED, f"{ENDGAME}: HEAD"),
    Row("OPTIONS with a hidden request as its body", get(b"content-length: %d" % len(HIDDEN_GET), target=PATH, method=b"OPTIONS") + HIDDEN_GET, ANSWERED, f"{ENDGAME}: OPTIONS"),
    Row("a body longer than its length", measured(body=CARRIER + HIDDEN_POST), SERVED, f"{SECTION}9.3.2"),
    Row("a body shorter than its length", post(b"content-length: %d" % (LENGTH + 1), body=CARRIER), WAITS, f"{SECTION}6.3, 8"),
    Row("a huge length before a hidden request", post(b"content-length: 9999999999", body=HIDDEN_POST), REFUSED, f"{SECTION}6.3, 9.6"),
)  # fmt: skip

BOTH = (
    Row("CL.TE: a length and chunked", post(b"content-length: %d" % len(BOTH_ENDS), b"transfer-encoding: chunked", body=BOTH_ENDS), REFUSED, f"{SECTION}6.1; {DESYNC}: CL.TE"),
    Row("TE.CL: chunked and a length", post(b"transfer-encoding: chunked", b"content-length: 5", body=BODY + HIDDEN_POST), REFUSED, f"{SECTION}6.1; {DESYNC}: TE.CL"),
    Row("a length of 0 and chunked", post(b"content-length: 0", b"transfer-encoding: chunked", body=BODY + HIDDEN_POST), REFUSED, f"{ENDGAME}: 0.CL"),
    Row("two lengths and chunked", post(b"content-length: 5", b"content-length: 5", b"transfer-encoding: chunked", body=BODY), REFUSED, f"{SECTION}6.3"),
    *(
        Row(f"a length and {name}", measured(line, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.1; {DESYNC}: TE.TE")
        for name, line in (
            ("xchunked", b"transfer-encoding: xchunked"),
            ("identity", b"transfer-encoding: identity"),
            ("an empty coding", b"transfer-encoding:"),
            ("a chunked coding in quotes", b'transfer-encoding: "chunked"'),
            ("a chunked coding behind a vertical tab", b"transfer-encoding: \x0bchunked"),
            ("a chunked coding behind a form feed", b"transfer-encoding: \x0cchunked"),
            ("a chunked coding behind a tab", b"transfer-encoding:\tchunked"),
            ("a chunked coding behind a NUL", b"transfer-encoding: \x00chunked"),
            ("a chunked coding behind a no-break space", b"transfer-encoding: \xa0chunked"),
            ("a chunked coding behind DEL", b"transfer-encoding: \x7fchunked"),
            ("a chunked coding in capitals", b"Transfer-Encoding: CHUNKED"),
            ("a chunked coding with a Kelvin sign", "transfer-encoding: chun\u212aed".encode()),
            ("a space before the colon", b"transfer-encoding : chunked"),
            ("a tab before the colon", b"transfer-encoding\t: chunked"),
            ("a NUL before the colon", b"transfer-encoding\x00: chunked"),
            ("a NUL inside the name", b"transfer\x00-encoding: chunked"),
            ("a space at the start of the line", b" transfer-encoding: chunked"),
            ("a tab at the start of the line", b"\ttransfer-encoding: chunked"),
            ("a CR at the start of the line", b"\rtransfer-encoding: chunked"),
            ("a bare LF in front", b"x: y\ntransfer-encoding: chunked"),
            ("a bare CR in front", b"x: y\rtransfer-encoding: chunked"),
            ("a coding on a folded line", b"transfer-encoding:\r\n chunked"),
            ("a coding on a line folded by a tab", b"transfer-encoding:\r\n\tchunked"),
            ("a coding in front of a folded line", b"transfer-encoding: chunked\r\n x"),
            ("a header line without a colon", b"transfer-encoding chunked"),
            ("a header line without a name", b": chunked"),
        )
    ),
    *(
        Row(f"a length and another header: {name}", measured(line, body=CARRIER + HIDDEN_POST), SERVED, f"{DESYNC}: TE.TE")
        for name, line in (
            ("transfer_encoding", b"transfer_encoding: chunked"),
            ("transferencoding", b"transferencoding: chunked"),
            ("x-transfer-encoding", b"x-transfer-encoding: chunked"),
            ("te", b"te: chunked, trailers"),
            ("trailer", b"trailer: content-length"),
            ("content_length", b"content_length: 5"),
            ("content-length-x", b"content-length-x: 5"),
            ("x-content-length", b"x-content-length: 5"),
        )
    ),
)  # fmt: skip

CODINGS = (
    *(
        Row(f"transfer-encoding: {name}", post(*lines, body=BODY + HIDDEN_POST), REFUSED, f"{SECTION}6.1, 7; {DESYNC}: TE.TE")
        for name, *lines in (
            ("chunked twice in a list", b"transfer-encoding: chunked, chunked"),
            ("chunked twice", b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
            ("chunked, then identity", b"transfer-encoding: chunked, identity"),
            ("chunked, then identity in another line", b"transfer-encoding: chunked", b"transfer-encoding: identity"),
            ("chunked, then gzip", b"transfer-encoding: chunked, gzip"),
            ("chunked, then nothing", b"transfer-encoding: chunked,"),
            ("chunked with a parameter", b"transfer-encoding: chunked;q=1"),
            ("chunked with a trailing word", b"transfer-encoding: chunked x"),
            ("xchunked", b"transfer-encoding: xchunked"),
            ("chunkedx", b"transfer-encoding: chunkedx"),
            ("chunk", b"transfer-encoding: chunk"),
            ("chunked in brackets", b"transfer-encoding: [chunked]"),
            ("chunked in quotes", b'transfer-encoding: "chunked"'),
            ("identity", b"transfer-encoding: identity"),
            ("gzip", b"transfer-encoding: gzip"),
            ("an empty value", b"transfer-encoding:"),
            ("behind a vertical tab", b"transfer-encoding: \x0bchunked"),
            ("behind a NUL", b"transfer-encoding: \x00chunked"),
            ("behind a bare CR", b"transfer-encoding: \rchunked"),
            ("in front of a NUL", b"transfer-encoding: chunked\x00"),
        )
    ),
    *(
        Row(f"transfer-encoding before chunked: {name}", post(*lines, body=BODY + HIDDEN_POST), REFUSED, f"{SECTION}6.1, 7.4: a coding that is not understood")
        for name, *lines in (
            ("gzip", b"transfer-encoding: gzip, chunked"),
            ("identity", b"transfer-encoding: identity, chunked"),
            ("nonsense", b"transfer-encoding: nonsense, chunked"),
            ("gzip in a line of its own", b"transfer-encoding: gzip", b"transfer-encoding: chunked"),
            ("identity in a line of its own", b"transfer-encoding: identity", b"transfer-encoding: chunked"),
            ("an empty element", b"transfer-encoding: , chunked"),
        )
    ),
    *(
        Row(f"chunked {name}", post(line, body=BODY + HIDDEN_POST), SERVED, f"{SECTION}6.1; RFC 9110, 5.6.3")
        for name, line in (
            ("alone", b"transfer-encoding: chunked"),
            ("in capitals", b"TRANSFER-ENCODING: CHUNKED"),
            ("in mixed case", b"Transfer-Encoding: cHuNkEd"),
            ("without a space", b"transfer-encoding:chunked"),
            ("behind a tab", b"transfer-encoding:\tchunked"),
            ("behind spaces", b"transfer-encoding:    chunked"),
        )
    ),
    Row("chunked in front of spaces", post(b"transfer-encoding: chunked  \t", body=BODY + HIDDEN_POST), EITHER, f"RFC 9110, 5.5; {PROBE}"),
)  # fmt: skip


def sized(size: bytes) -> bytes:
    """Return a chunked request with *size* in place of the size of its chunk."""
    return chunked(body=chunk(CARRIER, size) + END + HIDDEN_POST)


_SIZE = b"%x" % LENGTH
CHUNKS = (
    *(
        Row(f"chunk size {name}", sized(size), REFUSED, f"{SECTION}7.1; {FUNKY}")
        for name, size in (
            ("with 0x", b"0x" + _SIZE),
            ("with a plus", b"+" + _SIZE),
            ("with a minus", b"-" + _SIZE),
            ("with an underscore", b"_" + _SIZE),
            ("with an underscore inside", _SIZE[:1] + b"_" + _SIZE[1:]),
            ("with a space in front", b" " + _SIZE),
            ("with a tab in front", b"\t" + _SIZE),
            ("with a letter behind", _SIZE + b"g"),
            ("with a quote", b'"' + _SIZE + b'"'),
            ("with a NUL", _SIZE + b"\x00"),
            ("with a comma", _SIZE + b",1"),
            ("of nothing", b""),
            ("of a semicolon", b";x"),
            ("of 17 hexadecimal digits", b"1" + b"0" * 15 + _SIZE),
            ("of 2 to the 64th and its own", b"%x" % (2**64 + LENGTH)),
            ("of 32 bits and its own, then garbage", b"%xg" % (2**32 + LENGTH)),
            ("with a bare CR", _SIZE + b"\r"),
            ("with a bare CR in front", b"\r" + _SIZE),
            ("with a CR inside an extension", _SIZE + b";x\ry"),
            ("with an LF inside an extension", _SIZE + b";x\ny"),
            ("with an LF in a quoted extension", _SIZE + b';x="\n"'),
            ("with CRLF in a quoted extension", _SIZE + b';x="\r\n"'),
            ("with a NUL in an extension", _SIZE + b";x\x00"),
        )
    ),
    *(
        Row(f"chunk size {name}", sized(size), SERVED, f"{SECTION}7.1, 7.1.1")
        for name, size in (
            ("in capitals", _SIZE.upper()),
            ("with leading zeros", b"00000" + _SIZE),
            ("with an extension", _SIZE + b";x=y"),
            ("with an extension without a value", _SIZE + b";x"),
            ("with a quoted extension", _SIZE + b';x="y;z"'),
            ("with several extensions", _SIZE + b";a=b;c=d"),
        )
    ),
    Row("chunk size ended by LF", chunked(body=_SIZE + b"\n" + CARRIER + b"\r\n" + END + HIDDEN_POST), REFUSED, f"{SECTION}7.1; {FUNKY}: TERM"),
    Row("chunk without CRLF behind it", chunked(body=_SIZE + b"\r\n" + CARRIER + END + HIDDEN_POST), REFUSED, f"{SECTION}7.1; {FUNKY}: SPILL"),
    Row("chunk ended by LF", chunked(body=_SIZE + b"\r\n" + CARRIER + b"\n" + END + HIDDEN_POST), REFUSED, f"{SECTION}7.1; {FUNKY}: SPILL"),
    Row("chunk ended by two other bytes", chunked(body=_SIZE + b"\r\n" + CARRIER + b"xx" + END + HIDDEN_POST), REFUSED, f"{FUNKY}: SPILL"),
    Row("chunk longer than its size", chunked(body=chunk(CARRIER + b" ", _SIZE) + END + HIDDEN_POST), REFUSED, f"{SECTION}7.1; {FUNKY}: SPILL"),
    Row("last chunk ended by LF", chunked(body=chunk(CARRIER) + b"0\n\n" + HIDDEN_POST), REFUSED, f"{SECTION}7.1; {FUNKY}: TERM"),
    Row("last chunk with many zeros", chunked(body=chunk(CARRIER) + b"0000000000\r\n\r\n" + HIDDEN_POST), SERVED, f"{SECTION}7.1"),
    Row("last chunk of minus zero", chunked(body=chunk(CARRIER) + b"-0\r\n\r\n" + HIDDEN_POST), REFUSED, f"{SECTION}7.1"),
    Row("last chunk with an extension", chunked(body=chunk(CARRIER) + b"0;x=y\r\n\r\n" + HIDDEN_POST), SERVED, f"{SECTION}7.1.1"),
    Row("last chunk without its blank line", chunked(body=chunk(CARRIER) + b"0\r\n"), WAITS, f"{SECTION}7.1"),
    Row("no last chunk", chunked(body=chunk(CARRIER)), WAITS, f"{SECTION}7.1, 8"),
    Row("two last chunks", chunked(body=chunk(CARRIER) + END + END + HIDDEN_POST), SERVED, f"{SECTION}7.1"),
    Row("hidden request in a chunk", chunked(body=chunk(HIDDEN_POST) + END), ANSWERED, f"{SECTION}7.1"),
    *(
        Row(f"trailer {name}", chunked(body=chunk(CARRIER) + b"0\r\n" + lines + b"\r\n" + HIDDEN_POST), SERVED, "RFC 9110, 6.5.1: not merged")
        for name, lines in (
            ("with an unknown field", b"x-checksum: 1\r\n"),
            ("with connection", b"connection: keep-alive\r\n"),
        )
    ),
    Row("trailer with a key", chunked(body=chunk(CARRIER) + b"0\r\nauthorization: Bearer smuggled\r\n\r\n" + HIDDEN_POST), SERVED, "RFC 9110, 6.5.1: not merged"),
    Row("trailer with a length", chunked(body=chunk(CARRIER) + b"0\r\ncontent-length: 500\r\n\r\n" + HIDDEN_POST), CLOSED, "RFC 9110, 6.5.1"),
    Row("trailer with a coding", chunked(body=chunk(CARRIER) + b"0\r\ntransfer-encoding: chunked\r\n\r\n" + HIDDEN_POST), CLOSED, "RFC 9110, 6.5.1"),
    Row("trailer with a content type", chunked(body=chunk(CARRIER) + b"0\r\ncontent-type: text/plain\r\n\r\n" + HIDDEN_POST), SERVED, "RFC 9110, 6.5.1: not merged"),
    Row("trailer with a content encoding", chunked(body=chunk(CARRIER) + b"0\r\ncontent-encoding: gzip\r\n\r\n" + HIDDEN_POST), SERVED, "RFC 9110, 6.5.1: not merged"),
    Row("trailer with a media type that the head lacks", post(b"transfer-encoding: chunked", body=chunk(CARRIER) + b"0\r\ncontent-type: application/json\r\n\r\n" + HIDDEN_POST).replace(b"content-type: application/json\r\n", b"", 1), ANSWERED, "RFC 9110, 6.5.1: not merged"),
    Row("trailer with a space before the colon", chunked(body=chunk(CARRIER) + b"0\r\nx : y\r\n\r\n" + HIDDEN_POST), REFUSED, f"{SECTION}5.1, 7.1.2"),
    Row("trailer on a folded line", chunked(body=chunk(CARRIER) + b"0\r\nx: y\r\n z\r\n\r\n" + HIDDEN_POST), REFUSED, f"{SECTION}5.2, 7.1.2"),
    Row("trailer that is a request", chunked(body=chunk(CARRIER) + b"0\r\n" + HIDDEN_GET), REFUSED, f"{ENDGAME}: trailers"),
)  # fmt: skip

LINES = (
    *(
        Row(f"header {name}", measured(line, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}5; {PROBE}")
        for name, line in (
            ("with a space before the colon", b"x : y"),
            ("with a tab before the colon", b"x\t: y"),
            ("with a space in the name", b"x y: z"),
            ("with a NUL in the name", b"x\x00y: z"),
            ("with a NUL in the value", b"x: y\x00z"),
            ("with a control byte in the name", b"x\x01: y"),
            ("with DEL in the name", b"x\x7f: y"),
            ("with a byte above ASCII in the name", b"x\xe9: y"),
            ("with a slash in the name", b"x/y: z"),
            ("with brackets in the name", b"x(y): z"),
            ("with quotes in the name", b'"x": y'),
            ("with a bare CR in the value", b"x: y\rz"),
            ("with a bare LF in the value", b"x: y\nz"),
            ("with a bare LF and a header", b"x: y\nz: w"),
            ("with CR CR LF", b"x: y\r"),
            ("folded by a space", b"x: y\r\n z"),
            ("folded by a tab", b"x: y\r\n\tz"),
            ("folded in front of a hidden request", b"x: y\r\n GET /smuggled HTTP/1.1"),
            ("without a colon", b"nonsense"),
            ("without a name", b": y"),
            ("that is a request line", b"GET /smuggled HTTP/1.1"),
        )
    ),
    *(
        Row(f"header {name}", measured(line, body=CARRIER + HIDDEN_POST), SERVED, "RFC 9110, 5.5, 5.6.2")
        for name, line in (
            ("with an underscore in the name", b"x_y: z"),
            ("with all token characters in the name", b"!#$%&'*+-.^_`|~1a: z"),
            ("with a byte above ASCII in the value", b"x: S\xe3o"),
            ("with a tab in the value", b"x: y\tz"),
            ("without a value", b"x:"),
            ("with colons in the value", b"x: y:z: w"),
        )
    ),
    Row("header with a control byte in the value", measured(b"x: y\x01z", body=CARRIER + HIDDEN_POST), REFUSED, "RFC 9110, 5.5: a recipient may reject CTL"),
    Row("first header line folded", post(b"content-length: %d" % LENGTH, body=CARRIER, start=b"POST %b HTTP/1.1\r\n x: y" % PATH), REFUSED, f"{SECTION}2.2"),
    Row("LF for all line endings", measured().replace(b"\r\n", b"\n") + HIDDEN_POST, REFUSED, f"{SECTION}2.2: a recipient may accept LF"),
    Row("CR for all line endings", measured().replace(b"\r\n", b"\r") + HIDDEN_POST, REFUSED, f"{SECTION}2.2"),
    Row("LF behind the request line", measured().replace(b"\r\n", b"\n", 1) + HIDDEN_POST, REFUSED, f"{SECTION}2.2"),
    Row("LF for the blank line", measured().replace(b"\r\n\r\n", b"\r\n\n") + HIDDEN_POST, REFUSED, f"{SECTION}2.2"),
    Row("CR CR LF for the blank line", measured().replace(b"\r\n\r\n", b"\r\n\r\r\n") + HIDDEN_POST, REFUSED, f"{SECTION}2.2"),
    Row("CRLF before the request", b"\r\n" + measured() + HIDDEN_POST, SERVED, f"{SECTION}2.2"),
    Row("several CRLF before the request", b"\r\n" * 5 + measured(), SERVED, f"{SECTION}2.2"),
    Row("a space before the request", b" " + measured() + HIDDEN_POST, REFUSED, f"{SECTION}3"),
    Row("a NUL before the request", b"\x00" + measured() + HIDDEN_POST, REFUSED, f"{SECTION}3"),
    Row("a BOM before the request", b"\xef\xbb\xbf" + measured() + HIDDEN_POST, REFUSED, f"{SECTION}3"),
    Row("text before the request", b"x" + measured() + HIDDEN_POST, REFUSED, f"{SECTION}3"),
    Row("a body before the request", CARRIER + HIDDEN_POST, REFUSED, f"{BROWSER}: client-side desync"),
    Row("CRLF behind the body", measured(body=CARRIER + b"\r\n" + HIDDEN_POST), SERVED, f"{SECTION}2.2"),
    Row("garbage behind the body", measured(body=CARRIER + b"garbage\r\n\r\n" + HIDDEN_POST), SERVED, f"{SECTION}9.3.2"),
)  # fmt: skip

HOSTS = (
    Row("two hosts", measured(b"host: localhost", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2"),
    Row("two equal hosts", measured(b"host: 127.0.0.1", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2"),
    Row("no host", post(b"content-length: %d" % LENGTH, body=CARRIER + HIDDEN_POST, host=False), REFUSED, f"{SECTION}3.2"),
    Row("a host with a path", post(b"host: 127.0.0.1/x", b"content-length: %d" % LENGTH, body=CARRIER, host=False), REFUSED, f"{SECTION}3.2; {PROBE}"),
    Row("a host with user information", post(b"host: user@127.0.0.1", b"content-length: %d" % LENGTH, body=CARRIER, host=False), REFUSED, f"{SECTION}3.2; {PROBE}"),
    Row("a host with a space", post(b"host: 127.0.0.1 y", b"content-length: %d" % LENGTH, body=CARRIER, host=False), REFUSED, f"{SECTION}3.2"),
    Row("a list of hosts", post(b"host: 127.0.0.1, 127.0.0.1", b"content-length: %d" % LENGTH, body=CARRIER, host=False), REFUSED, f"{SECTION}3.2"),
)  # fmt: skip

TARGETS = (
    Row("absolute form", measured(start=b"POST http://127.0.0.1%b HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), SERVED, f"{SECTION}3.2.2"),
    Row("absolute form of another host", measured(start=b"POST http://other%b HTTP/1.1" % PATH), EITHER, f"{SECTION}3.2.2"),
    Row("absolute form without a path", measured(start=b"POST http://127.0.0.1 HTTP/1.1", body=CARRIER + HIDDEN_POST), ANSWERED, f"{SECTION}3.2.2"),
    Row("absolute form without a path, with a query", measured(start=b"POST http://127.0.0.1?smuggle HTTP/1.1", body=CARRIER + HIDDEN_POST), ANSWERED, f"{SECTION}3.2.2"),
    Row("absolute form of another scheme", measured(start=b"POST ftp://127.0.0.1%b HTTP/1.1" % PATH), EITHER, f"{SECTION}3.2.2"),
    Row("absolute form with a fragment", measured(start=b"POST http://127.0.0.1%b#/smuggle HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), EITHER, f"{SECTION}3.2"),
    Row("asterisk form for POST", measured(start=b"POST * HTTP/1.1", body=CARRIER + HIDDEN_POST), ANSWERED, f"{SECTION}3.2.4"),
    Row("asterisk form for OPTIONS", get(target=b"*", method=b"OPTIONS") + HIDDEN_POST, ANSWERED, f"{SECTION}3.2.4"),
    Row("CONNECT", get(target=b"x:443", method=b"CONNECT") + HIDDEN_POST, ANSWERED, f"{SECTION}3.2.3; RFC 9110, 9.3.6"),
    Row("CONNECT with a body", get(b"content-length: %d" % LENGTH, target=b"x:443", method=b"CONNECT") + CARRIER + HIDDEN_POST, ANSWERED, "RFC 9110, 9.3.6"),
    Row("CONNECT to a path", get(target=PATH, method=b"CONNECT") + HIDDEN_POST, ANSWERED, f"{SECTION}3.2.3"),
    Row("authority form for POST", measured(start=b"POST x:443 HTTP/1.1", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2.3"),
    Row("a target without a slash", measured(start=b"POST v1/chat/completions HTTP/1.1", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2.1"),
    Row("a target with two slashes", measured(start=b"POST /%b HTTP/1.1" % PATH), EITHER, f"{SECTION}3.2.1"),
    Row("a target with a NUL", measured(start=b"POST %b\x00 HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2"),
    Row("a target with a tab", measured(start=b"POST %b\t HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2"),
    Row("a target with a space", measured(start=b"POST %b /smuggle HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2"),
    Row("a target with a bare CR", measured(start=b"POST %b\r HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}2.2"),
    Row("a target with a byte above ASCII", measured(start=b"POST %b?\xff HTTP/1.1" % PATH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2"),
    Row("a target with an escaped CRLF", measured(start=b"POST %b?x=%%0d%%0a HTTP/1.1" % PATH), SERVED, "RFC 3986, 2.1: the query is not sent on"),
    Row("a target with an escaped CRLF in its path", measured(start=b"POST %b%%0d%%0a HTTP/1.1" % PATH), ANSWERED, "RFC 3986, 2.1"),
    Row("a target with an escaped slash", measured(start=b"POST /v1%2fchat%2fcompletions HTTP/1.1"), EITHER, "RFC 3986, 2.2"),
    Row("a target with dot segments", measured(start=b"POST /x/..%b HTTP/1.1" % PATH), ANSWERED, "RFC 3986, 3.3"),
    Row("a target with escaped dot segments", measured(start=b"POST /x/%%2e%%2e%b HTTP/1.1" % PATH), ANSWERED, "RFC 3986, 3.3"),
    Row("a target with a backslash", measured(start=b"POST \\v1\\chat\\completions HTTP/1.1", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.2.1"),
)  # fmt: skip

VERSIONS = (
    Row("HTTP/0.9", b"GET /healthz\r\n" + HIDDEN_POST, REFUSED, "RFC 1945, 4.1"),
    Row("HTTP/0.9 with its number", get(version=b"HTTP/0.9") + HIDDEN_POST, REFUSED, f"{SECTION}2.3"),
    Row("HTTP/1.0 keeps no connection", measured(b"connection: keep-alive", start=b"POST %b HTTP/1.0" % PATH, body=CARRIER + HIDDEN_POST), SERVED, f"{SECTION}9.3"),
    Row("HTTP/1.0 with chunked", post(b"transfer-encoding: chunked", start=b"POST %b HTTP/1.0" % PATH, body=BODY + HIDDEN_POST), CLOSED, f"{SECTION}6.1: treat the framing as faulty"),
    Row("HTTP/1.0 with chunked and keep-alive", post(b"connection: keep-alive", b"transfer-encoding: chunked", start=b"POST %b HTTP/1.0" % PATH, body=BODY + HIDDEN_POST), CLOSED, f"{SECTION}6.1"),
    Row("HTTP/1.0 with a length and chunked", measured(b"transfer-encoding: chunked", start=b"POST %b HTTP/1.0" % PATH, body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.1"),
    *(
        Row(f"version {version.decode()!r}", measured(start=b"POST %b %b" % (PATH, version), body=CARRIER + HIDDEN_POST), CLOSED if version == b"RTSP/1.0" else REFUSED, f"{SECTION}2.3; the parser takes RTSP/1.0 for HTTP/1.0")
        for version in (b"HTTP/1.2", b"HTTP/1.9", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/2.0", b"HTTP/3", b"HTTP/9.9", b"http/1.1", b"HTTP/1,1", b"HTTP/1.1 x", b"HTTP/ 1.1", b"HTP/1.1", b"RTSP/1.0", b"ICE/1.0", b"HTTP/1.\xd9\xa1", b"HTTP/-1.1")
    ),
    Row("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN_POST, REFUSED, "RFC 9113, 3.4"),
    Row("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN_POST, REFUSED, "RFC 8446, 5.1"),
    Row("a PROXY line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + measured(), REFUSED, "HAProxy, PROXY protocol"),
    Row("a response", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" + HIDDEN_POST, REFUSED, f"{SECTION}2.1"),
    *(
        Row(f"method {method.decode('latin-1')!r}", measured(start=b"%b %b HTTP/1.1" % (method, PATH), body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}3.1; RFC 9110, 9.1")
        for method in (b"post", b"P\x00ST", b"PO ST", b"NONSENSE", b"G" * 5000, b"{}", b"\xc3\xa9")
    ),
    *(
        Row(f"method {method.decode()}", measured(start=b"%b %b HTTP/1.1" % (method, PATH), body=CARRIER + HIDDEN_POST), ANSWERED, "RFC 9110, 9.1, 15.5.6")
        for method in (b"TRACE", b"PUT", b"PATCH", b"DELETE", b"PROPFIND", b"PURGE", b"M-SEARCH", b"SOURCE")
    ),
)  # fmt: skip

CONNECTIONS = (
    *(
        Row(f"connection: {value.decode()}", measured(b"connection: " + value, body=CARRIER + HIDDEN_POST), SERVED, f"{SECTION}9.3, 9.6; RFC 9110, 7.6.1")
        for value in (b"close", b"keep-alive", b"close, keep-alive", b"keep-alive, close", b"content-length", b"transfer-encoding", b"host", b"x")
    ),
    Row("connection repeated", measured(b"connection: close", b"connection: keep-alive", body=CARRIER + HIDDEN_POST), SERVED, f"{SECTION}9.3"),
    Row("keep-alive with a huge timeout", measured(b"keep-alive: timeout=999999999, max=9", body=CARRIER + HIDDEN_POST), SERVED, "RFC 9110, 7.6.1"),
    Row("proxy-connection", measured(b"proxy-connection: keep-alive", body=CARRIER + HIDDEN_POST), SERVED, "RFC 9110, 7.6.1"),
    Row("expect: 100-continue, with the body", measured(b"expect: 100-continue", body=CARRIER + HIDDEN_POST), SERVED, f"RFC 9110, 10.1.1; {ENDGAME}: Expect"),
    Row("expect: 100-continue, obfuscated", measured(b"expect: y 100-continue", body=CARRIER + HIDDEN_POST), SERVED, f"{ENDGAME}: Expect"),
    Row("expect: 100-continue for GET", get(b"expect: 100-continue", b"content-length: %d" % len(HIDDEN_GET)) + HIDDEN_GET, SERVED, f"{ENDGAME}: Expect"),
    Row("expect: 100-continue before a refused body", post(b"expect: 100-continue", b"content-length: 99999999", body=HIDDEN_POST), REFUSED, "RFC 9110, 10.1.1"),
    Row("an unknown expectation", measured(b"expect: 200-ok", body=CARRIER + HIDDEN_POST), SERVED, "RFC 9110, 10.1.1: 417 is optional"),
    *(
        Row(f"upgrade: {offer.decode()}", measured(b"connection: upgrade, http2-settings", b"upgrade: " + offer, b"http2-settings: AAMAAABkAAQAAP__", body=CARRIER + HIDDEN_POST), SERVED, f"{H2C}; RFC 9110, 7.8")
        for offer in (b"h2c", b"websocket", b"TLS/1.0", b"h2c, websocket", b"smuggle")
    ),
    Row("upgrade without connection", measured(b"upgrade: websocket", body=CARRIER + HIDDEN_POST), SERVED, H2C),
    Row("upgrade of a GET", get(b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13", b"sec-websocket-key: eA==") + HIDDEN_POST, REFUSED, "0ang3el, Websocket Smuggling (2019); RFC 6455, 4.1"),
    Row("upgrade of a chunked request", chunked(b"connection: upgrade", b"upgrade: h2c", body=BODY + HIDDEN_POST), SERVED, H2C),
    Row("upgrade with a length and chunked", measured(b"connection: upgrade", b"upgrade: h2c", b"transfer-encoding: chunked", body=CARRIER + HIDDEN_POST), REFUSED, f"{SECTION}6.1; {H2C}"),
    Row("two pipelined requests", measured() + HIDDEN_POST, SERVED, f"{SECTION}9.3.2: the client sends the second again"),
    Row("ten pipelined requests", measured() + HIDDEN_POST * 10, SERVED, f"{SECTION}9.3.2"),
    Row("pipelined behind a refused body", measured(body=b"x" * LENGTH) + HIDDEN_POST, ANSWERED, f"{SECTION}9.3.2"),
    Row("pipelined behind an unknown path", get(target=b"/unknown") + HIDDEN_POST, ANSWERED, f"{SECTION}9.3.2"),
    Row("pipelined behind HEAD", get(method=b"HEAD") + HIDDEN_GET, SERVED, f"{SECTION}9.3.2, 6.3"),
    Row("half a pipelined request", measured() + HIDDEN_POST[:40], SERVED, f"{SECTION}9.3.2"),
    Row("a pipelined request that is no HTTP", measured() + b"\x00" * 40 + HIDDEN_POST, SERVED, f"{SECTION}9.3.2"),
    Row("override by headers", measured(b"x-http-method-override: DELETE", b"x-original-url: /smuggle", b"x-rewrite-url: /smuggle", body=CARRIER + HIDDEN_POST), SERVED, "PortSwigger, Practical Web Cache Poisoning (2018)"),
)  # fmt: skip

REQUESTS = (*LENGTHS, *BOTH, *CODINGS, *CHUNKS, *LINES, *HOSTS, *TARGETS, *VERSIONS, *CONNECTIONS)
