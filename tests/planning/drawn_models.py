"""Models of several kinds in sizes that are drawn: those of whose spaces all strategies are priced."""

from __future__ import annotations

from dsl.data import dataclass


@dataclass(frozen=True, slots=True)
class DrawnKind:
    """A kind of model. text: its `dim`s, inputs and what it computes; sizes: values of what stands in braces."""

    uses: str
    text: str
    sizes: dict[str, tuple[int, ...]]

    @property
    def looped(self) -> bool:
        """Whether it has a loop, of which stages may be cut."""
        return "repeat" in self.text


WIDE = (16, 64, 96, 512, 1024)
LOOPS = (2, 3, 4)

KINDS: dict[str, DrawnKind] = {
    "layers": DrawnKind(
        "linear, relu_mlp",
        """dim b = {batch}, p = {width}, d = {hidden}, one = 1
  input x : compute[b,p]
  input t : compute[b,one]
  y = linear(relu_mlp(linear(x, over d), {times} * {hidden}), over one)
  loss mean((y - t) * (y - t))""",
        {"width": (24, 64, 4096), "hidden": WIDE, "times": (2, 4)},
    ),
    "tied": DrawnKind(
        "layer_norm",
        """dim b = {batch}, p = {width}, d = {hidden}, f = 2 * {hidden}
  input x : compute[b,p]
  weight w[p,d] ~ normal(0.1)
  weight u[d,f] ~ normal(0.1)
  y[b,p] = relu(layer_norm(relu(relu(x @ w) @ u) @ u)) @ w
  loss mean((y - x) * (y - x))""",
        {"width": (24, 64, 4096), "hidden": WIDE},
    ),
    "stack": DrawnKind(
        "layer_norm, linear, mlp",
        """dim b = {batch}, p = {width}, d = {hidden}
  input x, t : compute[b,p]
  h = linear(x, over d)
  repeat {layers} as block {{
    h = h + mlp(layer_norm(h), {times} * {hidden})
  }}
  y = linear(h, over p)
  loss mean((y - t) * (y - t))""",
        {"width": (8, 1024), "hidden": WIDE, "times": (1, 4), "layers": LOOPS},
    ),
    "two_loops": DrawnKind(
        "linear, relu_mlp, rms_norm",
        """dim b = {batch}, p = {width}, d = {hidden}, e = {narrow}
  input x, t : compute[b,p]
  h = linear(x, over d)
  repeat {layers} as wide {{
    h = h + relu_mlp(rms_norm(h), 2 * {hidden})
  }}
  g = linear(h, over e)
  repeat {more} as thin {{
    g = g + relu_mlp(g, 3 * {narrow})
  }}
  y = linear(g, over p)
  loss mean((y - t) * (y - t))""",
        {"width": (8, 1024), "hidden": WIDE, "narrow": (8, 48, 256), "layers": (1, 2, 3), "more": (1, 2)},
    ),
    "gpt": DrawnKind(
        "attention, cross_entropy, layer_norm, mlp",
        """dim b = {batch}, s = {seq}, d = {hidden}, v = {vocab}
  input tokens, targets : int32[b,s] in 0..v
  weight wte[v,d] ~ normal(0.02)
  x[b,s,d] = take(wte, tokens, over v)
  repeat {layers} as block {{
    x = x + attention(layer_norm(x), {heads})
    x = x + mlp(layer_norm(x), 4 * {hidden})
  }}
  logits[b,s,v] = layer_norm(x) @ wte
  loss cross_entropy(logits, targets, over v)""",
        {"seq": (5, 7, 16, 129), "hidden": WIDE, "vocab": (64, 1000, 32000), "heads": (2, 4), "layers": LOOPS},
    ),
    "experts": DrawnKind(
        "cross_entropy, embedding, layer_norm, linear, moe",
        """dim b = {batch}, s = {seq}, d = {hidden}, v = {vocab}
  input tokens, targets : int32[b,s] in 0..v
  x = embedding(tokens, over v, over d)
  repeat {layers} as block {{
    y, balance = moe(layer_norm(x), {experts}, {times} * {hidden})
    x = x + y
  }}
  loss cross_entropy(linear(x, over v), targets, over v)""",
        {
            "seq": (5, 7, 33),
            "hidden": WIDE,
            "vocab": (64, 1000),
            "experts": (4, 6, 8),
            "times": (1, 2),
            "layers": (2, 3),
        },
    ),
    "images": DrawnKind(
        "avg_pool, conv, cross_entropy, linear",
        """dim b = {batch}, y = {size}, x = {size}, c = 3, v = 8
  input image : compute[b,y,x,c]
  input label : int32[b] in 0..v
  z = relu(conv(image, {hidden}))
  z = relu(conv(avg_pool(z), {times} * {hidden}, stride = {stride}))
  loss cross_entropy(linear(mean(z, over (y, x)), over v), label, over v)""",
        {"size": (8, 24, 64), "hidden": (16, 64, 96), "times": (1, 2), "stride": (1, 2)},
    ),
    "tables": DrawnKind(
        "linear, mse, relu_mlp",
        """dim b = {batch}, u = {users}, i = {items}, e = {hidden}, one = 1
  input user : int32[b] in 0..u
  input item : int32[b] in 0..i
  input rating : compute[b,one]
  weight of_users[u,e] ~ normal(0.1)
  weight of_items[i,e] ~ normal(0.1)
  both = take(of_users, user, over u) * take(of_items, item, over i)
  loss mse(linear(relu_mlp(both, {times} * {hidden}), over one), rating)""",
        {"users": (4096, 600000), "items": (1024, 30030), "hidden": WIDE, "times": (1, 4)},
    ),
    "towers": DrawnKind(
        "linear, mse, relu_mlp",
        """dim b = {batch}, p = {width}, a = {other}, d = {hidden}
  input pictures : compute[b,p]
  input sounds : compute[b,a]
  input alike : compute[b]
  i = relu_mlp(linear(pictures, over d), {times} * {hidden}) as image
  w = relu_mlp(linear(sounds, over d), 2 * {hidden}) as audio
  loss mse(sum(i * w, over d), alike)""",
        {"width": (24, 2048), "other": (16, 768), "hidden": WIDE, "times": (2, 4)},
    ),
}
"""By name."""
