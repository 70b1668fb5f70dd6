# SPDX-License-Identifier: MIT
"""The workloads in PyTorch, in float on one thread: with normflows, zuko, nflows and torchcfm, and by hand under
torch.compile.

usage: torch_peers.py [normflows] [normflows_planar] [normflows_residual] [zuko] [zuko_cnf] [nflows] [compiled]
                      [torchcfm] (default: all)
"""
import math
import sys

import torch

from timing import report

LAYERS, WIDTH, BATCH = 32, 64, 512
torch.set_num_threads(1)
torch.manual_seed(0)


def moons(n):
    """The two moons as diffeo's toy2d::sample draws them."""
    a = math.pi * torch.rand(n)
    upper = torch.stack([a.cos(), a.sin()], 1)
    lower = torch.stack([1 - a.cos(), 0.5 - a.sin()], 1)
    points = torch.where(torch.rand(n, 1) < 0.5, upper, lower)
    return 2 * (points + 0.1 * torch.randn(n, 2)) + torch.tensor([-1, -0.2])


def report_step(name, params, loss, repeats, points, rate=1e-3):
    """A step of Adam on loss()."""
    optimiser = torch.optim.Adam(params, rate)

    def step():
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    report(name, step, repeats, points)


def report_density(variant, params, log_prob, sample=None):
    name = "realnvp32"
    x = moons(100000)
    batch = x[:BATCH]
    report_step(f"{name}_b{BATCH}_step/{variant}", params, lambda: -log_prob(batch).mean(), 20, BATCH)
    with torch.no_grad():
        for n, repeats in ((8192, 5), (100000, 3)):
            part = x[:n]
            report(f"{name}_logprob{n}/{variant}", lambda: log_prob(part), repeats, n)
        if sample:
            report(f"{name}_sample8192/{variant}", lambda: sample(8192), 5, 8192)
        one = x[:1]
        report(f"{name}_onepoint/{variant}", lambda: log_prob(one), 30, 1)


def normflows():
    import normflows as nf

    flows = []
    for _ in range(LAYERS):
        net = nf.nets.MLP([1, WIDTH, WIDTH, 2], init_zeros=True)
        flows += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(2, mode="swap")]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), flows)
    report_density("normflows", list(model.parameters()), model.log_prob, model.sample)


def normflows_planar():
    """Reverse KL towards the first energy of Rezende & Mohamed 2015, table 1."""
    import normflows as nf

    class Energy:
        def log_prob(self, z):
            bumps = torch.logaddexp(-((z[:, 0] - 2) / 0.6) ** 2 / 2, -((z[:, 0] + 2) / 0.6) ** 2 / 2)
            return bumps - ((z.norm(dim=1) - 2) / 0.4) ** 2 / 2

    flows = [nf.flows.Planar((2,)) for _ in range(32)]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), flows, Energy())
    report_step("planar32_b1024_rkl_step/normflows", list(model.parameters()), lambda: model.reverse_kld(1024), 30, 1024)


def normflows_residual():
    """Log-determinants by Russian roulette, which is what normflows trains with."""
    import normflows as nf

    nets = [nf.nets.LipschitzMLP([2, 128, 128, 2], init_zeros=True, lipschitz_const=0.9) for _ in range(16)]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False),
                               [nf.flows.Residual(net, reduce_memory=False) for net in nets])
    x = moons(BATCH)
    report_step(f"residual16_b{BATCH}_step/normflows", list(model.parameters()), lambda: model.forward_kld(x), 8, BATCH)


def zuko():
    import zuko

    recipe = getattr(zuko.flows, "RealNVP", zuko.flows.NICE)  # affine couplings under either name
    flow = recipe(2, transforms=LAYERS, hidden_features=(WIDTH, WIDTH))
    report_density("zuko", list(flow.parameters()), lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows():
    from nflows.flows.realnvp import SimpleRealNVP

    flow = SimpleRealNVP(2, WIDTH, LAYERS, 2)
    report_density("nflows", list(flow.parameters()), flow.log_prob, flow.sample)


def compiled():
    shapes = {"w1": (1, WIDTH), "b1": (WIDTH,), "w2": (WIDTH, WIDTH), "b2": (WIDTH,), "w3": (WIDTH, 2), "b3": (2,)}
    scales = {"w1": 1, "w2": WIDTH**-0.5, "w3": 0.01}
    params = {k: torch.nn.Parameter(scales.get(k, 0) * torch.randn(LAYERS, *s)) for k, s in shapes.items()}

    @torch.compile
    def log_prob(x):
        a, b = x[:, :1], x[:, 1:]
        log_det = torch.zeros(x.shape[0])
        for i in range(LAYERS):
            h = torch.tanh(a @ params["w1"][i] + params["b1"][i])
            h = torch.tanh(h @ params["w2"][i] + params["b2"][i])
            o = h @ params["w3"][i] + params["b3"][i]
            s = torch.tanh(o[:, :1])
            a, b = (b - o[:, 1:]) * torch.exp(-s), a
            log_det = log_det - s[:, 0]
        return log_det - 0.5 * (a[:, 0] ** 2 + b[:, 0] ** 2) - math.log(2 * math.pi)

    report_density("torch_compile", list(params.values()), log_prob)


def zuko_cnf():
    """Dopri5 with zuko's tolerances (1e-6, 1e-5), one step size for the whole batch, exact traces."""
    import zuko

    flow = zuko.flows.CNF(2, hidden_features=(WIDTH, WIDTH), exact=True)
    x = (moons(4096) + torch.tensor([1, 0.2])) / 2
    report_step(f"cnf_b{BATCH}_step/zuko", flow.parameters(), lambda: -flow().log_prob(x[:BATCH]).mean(), 6, BATCH)
    with torch.no_grad():
        report("cnf_logprob4096/zuko", lambda: flow().log_prob(x), 3, 4096)
        report("cnf_sample4096/zuko", lambda: flow().sample((4096,)), 3, 4096)


def torchcfm():
    """Flow matching on straight lines without noise, with independent pairs and with optimal ones, which POT finds."""
    from torchcfm.conditional_flow_matching import (ConditionalFlowMatcher,
                                                    ExactOptimalTransportConditionalFlowMatcher)

    x1 = moons(20000)
    x1 = ((x1 - x1.mean(0)) / x1.std(0))[:256]
    for name, matcher in (("fm", ConditionalFlowMatcher(sigma=0.0)),
                          ("otcfm", ExactOptimalTransportConditionalFlowMatcher(sigma=0.0))):
        net = torch.nn.Sequential(torch.nn.Linear(3, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH),
                                  torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(),
                                  torch.nn.Linear(WIDTH, 2))

        def loss():
            t, x, u = matcher.sample_location_and_conditional_flow(torch.randn(256, 2), x1)
            return ((net(torch.cat([x, t[:, None]], 1)) - u) ** 2).sum(1).mean()

        report_step(f"{name}_b256_step/torchcfm", net.parameters(), loss, 200, 256, rate=1e-4)


WORKLOADS = {"normflows": normflows, "normflows_planar": normflows_planar, "normflows_residual": normflows_residual,
             "zuko": zuko, "zuko_cnf": zuko_cnf, "nflows": nflows, "compiled": compiled, "torchcfm": torchcfm}

if __name__ == "__main__":
    for workload in sys.argv[1:] or WORKLOADS:
        try:
            WORKLOADS[workload]()
        except Exception as error:  # one library that does not work here should not cost the others
            print(f"{workload}: {error!r}", file=sys.stderr)
