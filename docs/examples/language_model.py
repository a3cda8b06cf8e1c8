"""Train a small causal language model on text that comes with Python: the topics of its `help()`.

    uv run python docs/examples/language_model.py
    uv run nntrain fit docs/examples/language_model.py:learner --epochs 6

Paragraphs have many lengths, so a batch's loss is a mean over its bytes, and the bytes are its weight: in the phase's
mean, and in the step that four batches make together. Nothing is to be downloaded.
"""

import math
import time
from functools import partial
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from nntrain import DataLoaders, Engine, Learner, StepOutput
from nntrain.schedules import cosine
from nntrain.update import accumulate, chain, clip_norm, optimizer

EPOCHS = 6
FAST_BF16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
CONTEXT = 128
PAD, EDGE = 0, 1  # bytes that are in no text


class LanguageModel(nn.Module):
    """A transformer that sees the bytes before: [B, T] to logits [B, T, 256]."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.places = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the byte after each."""
        length = tokens.size(1)
        seen = nn.Transformer.generate_square_subsequent_mask(length, tokens.device)
        x = self.bytes(tokens) + self.places.weight[:length]
        logits: Tensor = self.head(self.layers(x, seen, is_causal=True))
        return logits


def next_byte(model: nn.Module, tokens: Tensor) -> StepOutput[Tensor]:
    """Return the mean loss of the bytes of a batch, which weighs as much as it has bytes."""
    target = tokens[:, 1:]
    logits = model(tokens[:, :-1])
    loss = cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
    bits = loss.detach() / math.log(2)
    return StepOutput(loss, logits, target, weight=(target != PAD).sum(), parts={"bits": bits})


class Pieces(Dataset[Tensor]):
    """The paragraphs of the topics, in pieces of at most `CONTEXT` tokens with their edges; each tenth is held out."""

    def __init__(self, count: int | None, *, train: bool) -> None:
        size = CONTEXT - 1
        # Some stand in several topics: each counts once, so that what is held out is new.
        paragraphs = dict.fromkeys(one.encode() for topic in topics.values() for one in topic.split("\n\n"))
        pieces = [one[at : at + size] for one in paragraphs for at in range(0, len(one), size)][:count]
        self.pieces = [piece for at, piece in enumerate(pieces) if (at % 10 > 0) is train]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, at: int) -> Tensor:
        return torch.tensor([EDGE, *self.pieces[at], EDGE])


def learner(
    epochs: int = EPOCHS, lr: float = 3e-3, width: int = 128, layers: int = 3, pieces: int | None = None
) -> Learner[Tensor, Tensor]:
    """Return the learner, for so many epochs over all pieces of text, or over the first ones."""
    joined = partial(pad_sequence, batch_first=True, padding_value=PAD)
    train = DataLoader(Pieces(pieces, train=True), 8, shuffle=True, collate_fn=joined)
    valid = DataLoader(Pieces(pieces, train=False), 64, collate_fn=joined)
    steps = epochs * math.ceil(len(train) / 4)
    rate = cosine(lr, steps=steps, warmup_steps=steps // 20)
    adamw = optimizer(torch.optim.AdamW, lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    return Learner.of(
        LanguageModel(width, layers),
        DataLoaders(train, valid),
        next_byte,
        chain(accumulate(4), clip_norm(1.0), adamw),
        engine=Engine(precision="bf16" if FAST_BF16 else "fp32"),
    )


@torch.no_grad()
def written(model: nn.Module, begin: str, length: int) -> str:
    """Return what a model writes after a beginning."""
    tokens = torch.tensor([[EDGE, *begin.encode()]])
    for _ in range(length):
        logits = model(tokens[:, -CONTEXT:])[:, -1]
        drawn = torch.multinomial((logits / 0.7).softmax(1), 1)
        if drawn.item() == EDGE:
            break
        tokens = torch.cat([tokens, drawn], 1)
    return bytes(tokens[0, 1:].tolist()).decode(errors="replace")


def main(epochs: int = EPOCHS, pieces: int | None = None, length: int = 400) -> None:
    """Train, and let the model write."""
    torch.manual_seed(0)
    began = time.perf_counter()
    state = learner(epochs, pieces=pieces).fit(epochs).state
    minutes = (time.perf_counter() - began) / 60
    print(f"{state.history[-1].metrics['bits']:.3f} bits a byte, after {minutes:.1f} minutes")
    model = state.to_module()
    for begin in ("The ", "If the ", "class "):
        print("---", written(model, begin, length), sep="\n")


if __name__ == "__main__":
    main()
