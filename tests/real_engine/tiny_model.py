"""Write a tiny Llama of random weights as GGUF, so that a real engine has something to serve.  Usage: tiny_model.py OUT."""

from __future__ import annotations

import sys

import gguf
import numpy as np

WIDTH, BLOCKS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 512
WORDS = (
    "the a fox hen ran over to and said hello world of in it is was that for on as with his they be at one have this"
)
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
END = 2


def vocabulary() -> tuple[list[bytes], list[gguf.TokenType]]:
    """Return the tokens and their kinds: three of control, all bytes, some words and letters."""
    kinds = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *([kinds.BYTE] * 256)]
    words = (
        [f"\u2581{word}".encode() for word in WORDS.split()]
        + [bytes([c]) for c in range(97, 123)]
        + ["\u2581".encode()]
    )
    return tokens + words, types + [kinds.NORMAL] * len(words)


def write(path: str) -> None:
    """Write the model to *path*."""
    tokens, types = vocabulary()
    rng = np.random.default_rng(7)

    def tensor(*shape: int, scale: float = 0.08) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    model = gguf.GGUFWriter(path, "llama")
    model.add_name("tiny")
    model.add_context_length(CONTEXT)
    model.add_embedding_length(WIDTH)
    model.add_block_count(BLOCKS)
    model.add_feed_forward_length(FEED_FORWARD)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_rope_dimension_count(WIDTH // HEADS)
    model.add_vocab_size(len(tokens))
    model.add_file_type(0)
    model.add_tokenizer_model("llama")
    model.add_token_list(tokens)
    model.add_token_scores([-1000.0 if t == gguf.TokenType.BYTE else -float(i % 50) for i, t in enumerate(types)])
    model.add_token_types(types)
    model.add_bos_token_id(1)
    model.add_eos_token_id(END)
    model.add_unk_token_id(0)
    model.add_chat_template(TEMPLATE)
    model.add_tensor("token_embd.weight", tensor(len(tokens), WIDTH, scale=0.5))
    output = tensor(len(tokens), WIDTH, scale=0.5)
    # The model never generates its end token, and rarely a raw byte.
    output[:259] *= 0.05
    output[END] = 0
    model.add_tensor("output.weight", output)
    model.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (FEED_FORWARD, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
        "ffn_down": (WIDTH, FEED_FORWARD),
    }
    for block in range(BLOCKS):
        for name, shape in shapes.items():
            model.add_tensor(f"blk.{block}.{name}.weight", tensor(*shape))
        model.add_tensor(f"blk.{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        model.add_tensor(f"blk.{block}.ffn_norm.weight", np.ones(WIDTH, np.float32))
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


if __name__ == "__main__":
    write(sys.argv[1])
