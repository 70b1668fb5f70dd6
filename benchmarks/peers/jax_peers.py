# SPDX-License-Identifier: MIT
"""The workloads in JAX, in float: by hand, as an expert of JAX would write them, and with flowjax and diffrax.

usage: jax_peers.py [realnvp32] [flowjax] [planar32] [flowjax_planar] [residual16] [cnf] [cnf_trace_dim] [fm]
(default: all)
"""
import sys

import diffrax
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


def drawing_adam_step(loss, params, rate=1e-3, key=KEY):
    """The same on loss(params, key), which draws its samples."""
    optimiser = optax.adam(rate)
    state = [params, optimiser.init(params), key]

    @jax.jit
    def step(params, moments, key):
        key, draw = jax.random.split(key)
        updates, moments = optimiser.update(jax.grad(loss)(params, draw), moments)
        return eqx.apply_updates(params, updates), moments, key

    def call():
        state[:] = jax.block_until_ready(step(*state))

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


def u1(x):
    """Minus the first energy of Rezende & Mohamed 2015, table 1."""
    ring = ((jnp.linalg.norm(x, axis=1) - 2) / 0.4) ** 2 / 2
    return jnp.logaddexp(-((x[:, 0] - 2) / 0.6) ** 2 / 2, -((x[:, 0] + 2) / 0.6) ** 2 / 2) - ring


def planar32():
    """Reverse KL towards U1; each step draws its 1024 samples, as ours does."""
    k = jax.random.split(KEY, 2)
    params = {"u": 0.1 * jax.random.normal(k[0], (32, 2)), "w": 0.1 * jax.random.normal(k[1], (32, 2)),
              "b": jnp.zeros(32)}

    def layer(carry, p):
        z, log_q = carry
        wu = p["w"] @ p["u"]
        u = p["u"] + (jax.nn.softplus(wu) - 1 - wu) * p["w"] / (p["w"] @ p["w"])
        h = jnp.tanh(z @ p["w"] + p["b"])
        return (z + h[:, None] * u, log_q - jnp.log1p((1 - h**2) * (p["w"] @ u))), None

    def loss(params, key):
        z = jax.random.normal(key, (1024, 2))
        x, log_q = jax.lax.scan(layer, (z, -0.5 * (z**2).sum(1) - LOG_2PI), params)[0]
        return (log_q - u1(x)).mean()

    report("planar32_b1024_rkl_step/jax_scan", drawing_adam_step(loss, params), 200, 1024)


def flowjax_planar():
    flow = flowjax.flows.planar_flow(
        KEY, base_dist=flowjax.distributions.Normal(jnp.zeros(2)), flow_layers=32, invert=False)
    params, rest = eqx.partition(flow, eqx.is_inexact_array)

    def loss(params, key):
        x, log_q = eqx.combine(params, rest).sample_and_log_prob(key, (1024,))
        return (log_q - u1(x)).mean()

    report("planar32_b1024_rkl_step/flowjax", drawing_adam_step(loss, params), 100, 1024)


def residual16():
    """Exact log-determinants from the dense 2 x 2 Jacobian; the spectral norms are taken as given, which spares JAX
    the power iterations."""
    blocks, width = 16, 128
    k = jax.random.split(KEY, 3)
    params = {"w1": 0.3 * jax.random.normal(k[0], (blocks, 2, width)), "b1": jnp.zeros((blocks, width)),
              "w2": 0.03 * jax.random.normal(k[1], (blocks, width, width)), "b2": jnp.zeros((blocks, width)),
              "w3": 0.03 * jax.random.normal(k[2], (blocks, width, 2)), "b3": jnp.zeros((blocks, 2))}
    lip_swish = lambda x: x * jax.nn.sigmoid(x) / 1.1

    def block(carry, p):
        z, log_det = carry

        def g(z):
            h = lip_swish(z @ p["w1"] + p["b1"])
            return lip_swish(h @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"]

        j = jax.vmap(jax.jacfwd(g))(z) + jnp.eye(2)
        det = j[:, 0, 0] * j[:, 1, 1] - j[:, 0, 1] * j[:, 1, 0]
        return (z + g(z), log_det + jnp.log(jnp.abs(det))), None

    def log_prob(params, x):
        z, log_det = jax.lax.scan(block, (x, jnp.zeros(x.shape[0])), params)[0]
        return log_det - 0.5 * (z**2).sum(1) - LOG_2PI

    x = moons(8192)
    report(f"residual16_b{BATCH}_step/jax_scan", adam_step(log_prob, params, x[:BATCH]), 15, BATCH)
    evaluate = jax.jit(log_prob)
    report("residual16_logprob8192/jax_scan", lambda: evaluate(params, x).block_until_ready(), 5, 8192)


def field_params(dim, hidden=(WIDTH, WIDTH)):
    """Of a velocity field [x, t] -> hidden units -> velocity, as the benchmark of continuous flows draws them."""
    sizes = [dim + 1, *hidden, dim]
    keys = jax.random.split(KEY, len(sizes) - 1)
    return [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in zip(keys, sizes, sizes[1:])]


def velocity(params, t, x):
    """Of one point, with elu units."""
    h = jnp.concatenate([x, jnp.array([t])])
    for w, b in params[:-1]:
        h = jax.nn.elu(h @ w + b)
    return h @ params[-1][0] + params[-1][1]


def cnf():
    """Dopri5 with tolerances 1e-5 and 1e-6 and exact traces; with one step size for the whole batch, which is faster
    here than one for each sample (vmap)."""

    def field(t, y, params):
        def one(y):
            x = y[:2]
            return jnp.append(velocity(params, t, x), jnp.trace(jax.jacfwd(lambda x: velocity(params, t, x))(x)))

        return jax.vmap(one)(y)

    def solve(params, y, start, end):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri5(), start, end, None, y, params, max_steps=256,
            stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-6)).ys[0]

    def log_prob(params, x):
        y = solve(params, jnp.concatenate([x, jnp.zeros((x.shape[0], 1))], 1), 1.0, 0.0)
        return y[:, 2] - 0.5 * (y[:, :2] ** 2).sum(1) - LOG_2PI

    params = field_params(2)
    x = (moons(4096) + jnp.array([1, 0.2])) / 2
    report(f"cnf_b{BATCH}_step/diffrax", adam_step(log_prob, params, x[:BATCH]), 15, BATCH)
    evaluate = jax.jit(log_prob)
    report("cnf_logprob4096/diffrax", lambda: evaluate(params, x).block_until_ready(), 5, 4096)


def cnf_trace_dim():
    """Velocity and exact divergence of 512 points: by the closed form, and by D tangents."""

    def closed_form(params, x):
        (w1, b1), (w2, b2), (w3, b3) = params
        m = w2 * (w3 @ w1[: x.shape[1]]).T
        h1, slope1 = jax.vjp(lambda a: jax.nn.elu(a), jnp.pad(x, ((0, 0), (0, 1)), constant_values=0.5) @ w1 + b1)
        d1 = slope1(jnp.ones_like(h1))[0]
        h2, slope2 = jax.vjp(lambda a: jax.nn.elu(a), h1 @ w2 + b2)
        d2 = slope2(jnp.ones_like(h2))[0]
        return h2 @ w3 + b3, ((d1 @ m) * d2).sum(1)

    def tangents(params, x):
        v = lambda x: velocity(params, 0.5, x)
        return jax.vmap(v)(x), jax.vmap(lambda x: jnp.trace(jax.jacfwd(v)(x)))(x)

    for dim in (2, 8, 43, 63):
        params, x = field_params(dim), jax.random.normal(KEY, (512, dim))
        for variant, function in (("jax_closed_form", closed_form), ("jax_tangents", tangents)):
            call = jax.jit(function)
            report(f"cnf_trace_dim/{dim}/{variant}", lambda: jax.block_until_ready(call(params, x)), 60, 512)


def fm():
    """Flow matching on straight lines without noise: x0 and t are drawn in each step, with JAX's usual random numbers
    and with those that XLA draws faster."""
    x1 = moons(20000)
    x1 = ((x1 - x1.mean(0)) / x1.std(0))[:256]

    def loss(params, key):
        of_x0, of_t = jax.random.split(key)
        x0, t = jax.random.normal(of_x0, x1.shape), jax.random.uniform(of_t, (x1.shape[0], 1))
        h = jnp.concatenate([(1 - t) * x0 + t * x1, t], 1)
        for w, b in params[:-1]:
            h = jnp.tanh(h @ w + b)
        return ((h @ params[-1][0] + params[-1][1] - (x1 - x0)) ** 2).sum(1).mean()

    for variant, key in (("jax_threefry", KEY), ("jax_rbg", jax.random.key(0, impl="rbg"))):
        step = drawing_adam_step(loss, field_params(2, (WIDTH,) * 3), rate=1e-4, key=key)
        report(f"fm_b256_step/{variant}", step, 400, 256)


WORKLOADS = {"realnvp32": realnvp32, "flowjax": flowjax_flows, "planar32": planar32,
             "flowjax_planar": flowjax_planar, "residual16": residual16, "cnf": cnf, "cnf_trace_dim": cnf_trace_dim,
             "fm": fm}

if __name__ == "__main__":
    for workload in sys.argv[1:] or WORKLOADS:
        WORKLOADS[workload]()
