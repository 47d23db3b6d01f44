import pytest

from moe_ray.domains.law_stackexchange import html_to_text

CASES = {
    "paragraphs are apart": ("<p>one</p><p>two</p>", "one\n\ntwo"),
    "source line ends are spaces": ("<p>one\n  two\r\nthree</p>", "one two three"),
    "a line break breaks": ("one<br>two<br/>three", "one\ntwo\nthree"),
    "entities are characters": ("<p>a &lt; b &amp;&nbsp;c &#39;d&#39;</p>", "a < b & c 'd'"),
    "bullets": ("<ul>\n<li>a</li>\n<li>b</li>\n</ul>", "- a\n- b"),
    "numbers": ("<p>so</p><ol><li><p>a</p></li><li><p>b</p></li></ol><p>end</p>", "so\n\n1. a\n2. b\n\nend"),
    "lists within lists": ("<ol><li>a<ul><li>x</li></ul></li><li>b</li></ol>", "1. a\n- x\n2. b"),
    "code keeps its spaces": (
        "<p>so:</p><pre><code>def f():\n\n\n    return  1\n</code></pre>",
        "so:\n\n```\ndef f():\n\n\n    return  1\n```",
    ),
    "inline code": ("<p>call <code>f(x)</code> now</p>", "call `f(x)` now"),
    "scripts, styles and comments go": ("<style>p{}</style>a<script>alert(1)</script><!-- no -->b", "ab"),
    "links and emphasis leave their text": ('<a href="http://x">see</a> <b>this</b><img src="y">', "see this"),
    "quotations": ("<blockquote><p>law</p></blockquote><p>says</p>", "law\n\nsays"),
    "tables": ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
    "unclosed elements": ("<p>one<p>two <b>three", "one\n\ntwo three"),
    "plain text": ("if x < y and y > z", "if x < y and y > z"),
    "a bare address": ("https://example.org/index.html", "https://example.org/index.html"),
    "a mark like our own": ("<p>a\x000\x00b</p>", "a0b"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_html_becomes_readable_text(name: str) -> None:
    html, text = CASES[name]
    assert html_to_text(html) == text
