# SPDX-License-Identifier: MIT
"""The workloads in JAX, in float: by hand, as an expert of JAX would write them, and with flowjax.

usage: jax_peers.py [realnvp32] [flowjax]    (default: all)
"""
import sys

import equinox as eqx
import flowjax.distributions
import flowjax.flows
import jax
import jax.numpy as jnp
import optax

from timing import report

KEY = jax.random.key(0)
LAYERS, WIDTH, BATCH = 32, 64, 512
LOG_2PI = jnp.log(2 * jnp.pi)


def moons(n):
    """The two moons as diffeo's toy2d::sample draws them."""
    which, angle, noise = jax.random.split(KEY, 3)
    a = jnp.pi * jax.random.uniform(angle, (n,))
    upper = jnp.stack([jnp.cos(a), jnp.sin(a)], 1)
    lower = jnp.stack([1 - jnp.cos(a), 0.5 - jnp.sin(a)], 1)
    points = jnp.where(jax.random.bernoulli(which, 0.5, (n, 1)), upper, lower)
    return 2 * (points + 0.1 * jax.random.normal(noise, (n, 2))) + jnp.array([-1, -0.2])


def adam_step(log_prob, params, x, rate=1e-3):
    """A call that does one step of Adam on -log_prob. The batch is always the same one, which spares JAX the choice."""
    optimiser = optax.adam(rate)
    state = [params, optimiser.init(params)]

    @jax.jit
    def step(params, moments, x):
        grads = jax.grad(lambda p: -log_prob(p, x).mean())(params)
        updates, moments = optimiser.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    def call():
        state[:] = jax.block_until_ready(step(*state, x))

    return call


def report_density(name, variant, params, log_prob, sample):
    """The workloads of a density: log_prob(params, x) and sample(params, key, n)."""
    x = moons(100000)
    report(f"{name}_b{BATCH}_step/{variant}", adam_step(log_prob, params, x[:BATCH]), 60, BATCH)
    evaluate = jax.jit(log_prob)
    for n, repeats in ((8192, 15), (100000, 5)):
        part = x[:n]
        report(f"{name}_logprob{n}/{variant}", lambda: evaluate(params, part).block_until_ready(), repeats, n)
    draw = jax.jit(lambda params, key: sample(params, key, 8192))
    report(f"{name}_sample8192/{variant}", lambda: draw(params, KEY).block_until_ready(), 15, 8192)
    one = x[:1]
    report(f"{name}_onepoint/{variant}", lambda: evaluate(params, one).block_until_ready(), 300, 1)


def realnvp_params():
    """Weights of all layers stacked, so that a scan can run over them."""
    k = jax.random.split(KEY, 3)
    zeros = lambda m: jnp.zeros((LAYERS, m))
    return {
        "w1": jax.random.normal(k[0], (LAYERS, 1, WIDTH)), "b1": zeros(WIDTH),
        "w2": jax.random.normal(k[1], (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5, "b2": zeros(WIDTH),
        "w3": 0.01 * jax.random.normal(k[2], (LAYERS, WIDTH, 2)), "b3": zeros(2),
    }


def scale_and_shift(layer, a):
    h = jnp.tanh(a @ layer["w1"] + layer["b1"])
    h = jnp.tanh(h @ layer["w2"] + layer["b2"])
    o = h @ layer["w3"] + layer["b3"]
    return jnp.tanh(o[:, :1]), o[:, 1:]


def density_layer(carry, layer):
    a, b, log_det = carry
    s, t = scale_and_shift(layer, a)
    return ((b - t) * jnp.exp(-s), a, log_det - s[:, 0]), None


def sample_layer(carry, layer):
    b, a = carry
    s, t = scale_and_shift(layer, a)
    return (a, b * jnp.exp(s) + t), None


def scan(body, carry, params, reverse=False):
    return jax.lax.scan(body, carry, params, reverse=reverse)[0]


def unrolled(body, carry, params, reverse=False):
    for i in reversed(range(LAYERS)) if reverse else range(LAYERS):
        carry, _ = body(carry, {name: value[i] for name, value in params.items()})
    return carry


def realnvp32():
    for variant, over_layers in (("jax_scan", scan), ("jax_unrolled", unrolled)):

        def log_prob(params, x):
            a, b, log_det = over_layers(density_layer, (x[:, :1], x[:, 1:], jnp.zeros(x.shape[0])), params)
            return log_det - 0.5 * (a[:, 0] ** 2 + b[:, 0] ** 2) - LOG_2PI

        def sample(params, key, n):
            z = jax.random.normal(key, (n, 2))
            return jnp.concatenate(over_layers(sample_layer, (z[:, :1], z[:, 1:]), params, reverse=True), 1)

        report_density("realnvp32", variant, realnvp_params(), log_prob, sample)


def flowjax_flows():
    flow = flowjax.flows.coupling_flow(
        KEY, base_dist=flowjax.distributions.Normal(jnp.zeros(2)), flow_layers=LAYERS, nn_width=WIDTH, nn_depth=2)
    params, rest = eqx.partition(flow, eqx.is_inexact_array)
    report_density("realnvp32", "flowjax", params,
                   lambda p, x: eqx.combine(p, rest).log_prob(x),
                   lambda p, key, n: eqx.combine(p, rest).sample(key, (n,)))


WORKLOADS = {"realnvp32": realnvp32, "flowjax": flowjax_flows}

if __name__ == "__main__":
    for workload in sys.argv[1:] or WORKLOADS:
        WORKLOADS[workload]()
