"""The question that roundoff started from, as its asker would hold it: two networks that should be the same.

    roundoff compare "examples/thread/net.py:Model(256)" "examples/thread/net.py:ModelConv(256)" \\
        --args "float32[16,5,256]" --match-weights
"""

from __future__ import annotations

from torch import Tensor, nn


class Model(nn.Module):
    """Fully connected layers on the last axis: [batch, samples, input_dim] to (logits, feats)."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_dim, 64)
        self.fc2 = nn.Linear(64, 128)
        self.fc3 = nn.Linear(128, 256)
        self.fc4 = nn.Linear(256, 4)
        self.act = nn.ELU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.act(self.fc3(self.act(self.fc2(self.act(self.fc1(x))))))
        return self.fc4(feats), feats


class ModelConv(nn.Module):
    """The same with 1x1 convolutions; the weights are its own until somebody copies them."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_dim, 64, 1)
        self.conv2 = nn.Conv2d(64, 128, 1)
        self.conv3 = nn.Conv2d(128, 256, 1)
        self.conv4 = nn.Conv2d(256, 4, 1)
        self.act = nn.ELU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(3).permute(0, 2, 1, 3)  # [batch, input_dim, samples, 1]
        feats = self.act(self.conv3(self.act(self.conv2(self.act(self.conv1(x))))))
        logits = self.conv4(feats)
        return logits.permute(0, 2, 1, 3).squeeze(3), feats.permute(0, 2, 1, 3).squeeze(3)


class ModelMistaken(ModelConv):
    """``ModelConv`` with a mistake: the third layer lost its activation."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(3).permute(0, 2, 1, 3)
        feats = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        logits = self.conv4(feats)
        return logits.permute(0, 2, 1, 3).squeeze(3), feats.permute(0, 2, 1, 3).squeeze(3)
