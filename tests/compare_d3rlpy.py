"""Losses of IQL, TD3+BC, AWAC and CQL beside those of d3rlpy: same batch, same weights of all networks. And scores.

    pip install d3rlpy && pip install -r requirements.txt && python tests/compare_d3rlpy.py
    python tests/compare_d3rlpy.py --scores FetchReach --updates 2000

Not a test that pytest collects, since d3rlpy pins another version of Gymnasium (it works with ours, which pip warns of);
it was last run with d3rlpy 2.8.1.

Losses. What is set so that both compute the same thing: gamma 0.98 and no bound reached (all values are moved below 0), the terminal
flag of d3rlpy where our reward is 0, no target noise in TD3+BC, the softmax over the batch in AWAC (d3rlpy's only way),
d3rlpy's policies of IQL and AWAC with a fixed deviation, whose log-likelihood is turned into our squared error, no
entropy in any target (d3rlpy's AWAC has one, with a constant temperature of 1), the same noise in all samples of CQL.
Exit status 1 if a loss differs by more than a thousandth of itself, or a gradient's norm by more than a hundredth.

Scores. Both train on the same sequence of batches (with swapped goals on PointMaze) and run the same episodes. The same
are the inputs, the layers' widths, learning rate, gamma and target updates, and the settings that both have (alpha,
expectile and temperature, number of samples). d3rlpy's own remain: its initial weights, no bounds on values, learned
deviations of the policies of IQL and AWAC, the entropy in the targets of AWAC, the softmax over AWAC's batch, the mode
of CQL's policy in its targets, where ours has a sample.
"""

import argparse
import copy
import dataclasses
import math
import sys
from unittest.mock import patch

import torch
from d3rlpy.algos import AWACConfig, CQLConfig, IQLConfig, TD3PlusBCConfig
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch
from speed import agent_class, load, make
from torch import nn

SIZES, HIDDEN, BATCH, GAMMA, TINY = (4, 3, 2), (64, 64, 64), 256, 0.98, -12.0  # TINY: logarithm of a deviation near 0
DIM = SIZES[-1]


def linears(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def copy_weights(ours, theirs, gaussian=False):
    """From one of our networks to one of theirs; with `gaussian` their last two layers are halves of our head."""
    ours, theirs = linears(ours), linears(theirs)
    if gaussian:
        *theirs, mean, log_std = theirs
        *ours, head = ours
        for layer, rows, shift in ((mean, slice(DIM), 0), (log_std, slice(DIM, None), -1)):
            layer.weight.copy_(head.weight[rows])
            layer.bias.copy_(head.bias[rows] + shift)
    for a, b in zip(ours, theirs, strict=True):
        b.weight.copy_(a.weight)
        b.bias.copy_(a.bias)


def ours(method, **algorithm):
    """Our agent with values around -10, a batch of it, and the same batch as d3rlpy takes it."""
    module = load(method)
    module.DEFAULTS.optimisation.hidden, module.DEFAULTS.optimisation.gamma = HIDDEN, GAMMA
    for key, value in algorithm.items():
        setattr(module.DEFAULTS.algorithm, key, value)
    torch.manual_seed(0)
    buffer, agent = make(module, SIZES, swap=True)
    for name in ("critic", "critic_target", "value", "actor_target"):
        if hasattr(agent, name):
            for parameter in getattr(agent, name).parameters():  # so that targets differ from online networks
                parameter.data += 0.02 * torch.randn_like(parameter)
            for net in getattr(getattr(agent, name), "nets", ()):
                nn.init.constant_(net.head.bias, -10)
    batch = buffer.sample(BATCH)
    return agent, batch, d3rlpy_batch(batch, agent.actor.normalizer)


def d3rlpy_batch(batch, normalizer):
    """A batch as d3rlpy takes it: normalised observations and goals in one, actions in [-1, 1]."""
    obs, next_obs = (normalizer(o, batch.goal) for o in (batch.obs, batch.next_obs))
    action, zeros = (batch.action - normalizer.center) / normalizer.scale, torch.zeros(len(batch.reward), 1)
    return TorchMiniBatch(
        observations=obs, actions=action, rewards=batch.reward[:, None], next_observations=next_obs,
        next_actions=action, returns_to_go=zeros, terminals=(batch.reward[:, None] == 0).float(),
        intervals=zeros + 1, device="cpu:0")


def theirs(config, agent, gaussian=False):
    """d3rlpy's implementation with the weights of our agent."""
    encoder = VectorEncoderFactory(list(HIDDEN))
    algorithm = config(gamma=GAMMA)
    for key in ("actor_encoder_factory", "critic_encoder_factory", "value_encoder_factory"):
        if hasattr(algorithm, key):
            setattr(algorithm, key, encoder)
    algorithm = algorithm.create(device="cpu:0")
    algorithm.create_impl((SIZES[0] + SIZES[1],), DIM)
    impl, modules = algorithm.impl, algorithm.impl.modules
    copy_weights(agent.actor, modules.policy, gaussian)
    for name, network in (("critic", modules.q_funcs), ("critic_target", modules.targ_q_funcs)):
        for a, b in zip(getattr(agent, name).nets, network, strict=True):
            copy_weights(a, b)
    if hasattr(agent, "value"):
        copy_weights(agent.value, modules.value_func)
    if hasattr(agent, "actor_target"):
        copy_weights(agent.actor_target, modules.targ_policy)
    if hasattr(modules, "log_temp"):
        nn.init.constant_(next(modules.log_temp.parameters()), 0.0)
    return impl, modules


def norm(loss, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters))]).norm()


def our_losses(agent, batch, networks):
    """The metrics of one update that changes nothing, and the norms of its gradients."""
    for optimizer in agent.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    metrics = agent.update(batch, 2)
    norms = {name: torch.cat([p.grad.flatten() for p in getattr(agent, name).parameters()]).norm() for name in networks}
    return metrics, norms


def squared_error(loss, weight, log_std):
    """Mean of weight * squared error, from minus the mean of weight * log-likelihood of a Gaussian."""
    return (loss - weight.mean() * DIM * (log_std + math.log(2 * math.pi) / 2)) * 2 * math.exp(2 * log_std) / DIM


def td3bc():
    agent, batch, b = ours("td3bc", target_noise=0.0)
    impl, modules = theirs(TD3PlusBCConfig, agent)
    impl._target_smoothing_sigma = 0.0
    critic = impl.compute_critic_loss(b, impl.compute_target(b)).critic_loss
    actor = impl.compute_actor_loss(b, modules.policy(b.observations)).actor_loss
    metrics, norms = our_losses(agent, batch, ("critic", "actor"))
    yield "critic loss", metrics["critic_loss"], critic
    yield "actor loss", metrics["actor_loss"], actor
    yield "critic gradient", norms["critic"], norm(critic, modules.q_funcs.parameters())
    yield "actor gradient", norms["actor"], norm(actor, modules.policy.parameters())


def iql():
    for expectile, beta in ((0.75, 3.0), (0.9, 10.0)):
        agent, batch, b = ours("iql", expectile=expectile, beta=beta)
        impl, modules = theirs(IQLConfig, agent)
        impl._expectile, impl._weight_temp, impl._max_weight = expectile, beta, 100.0
        losses = impl.compute_critic_loss(b, impl.compute_target(b))
        output = modules.policy(b.observations)
        weight, log_std = impl._compute_weight(b).detach(), output.logstd[0, 0].item()
        actor = squared_error(impl.compute_actor_loss(b, output).actor_loss, weight, log_std)
        metrics, norms = our_losses(agent, batch, ("critic", "value", "actor"))
        case = f", expectile {expectile}, beta {beta}"
        yield "critic loss" + case, metrics["critic_loss"], losses.q_loss
        yield "value loss" + case, metrics["value_loss"], losses.v_loss
        yield "weight" + case, metrics["weight"], weight.mean()
        yield "actor loss" + case, metrics["actor_loss"], actor
        yield "critic gradient" + case, norms["critic"], norm(losses.q_loss, modules.q_funcs.parameters())
        yield "value gradient" + case, norms["value"], norm(losses.v_loss, modules.value_func.parameters())
        policy = [p for name, p in modules.policy.named_parameters() if "logstd" not in name]
        yield "actor gradient" + case, norms["actor"], norm(actor, policy)


def awac():
    agent, batch, b = ours("awac", weight="softmax", temperature=1.0)
    impl, modules = theirs(AWACConfig, agent)
    nn.init.constant_(modules.policy._logstd, -1e9)  # of a sigmoid: the smallest deviation
    modules.policy._min_logstd = TINY  # then the one action that d3rlpy draws is the mean
    nn.init.constant_(next(modules.log_temp.parameters()), -1e9)
    critic = impl.compute_critic_loss(b, impl.compute_target(b)).critic_loss
    weight = impl._compute_weights(b.observations, b.actions)
    actor = squared_error(impl.compute_actor_loss(b, modules.policy(b.observations)).actor_loss / BATCH, weight, TINY)
    metrics, norms = our_losses(agent, batch, ("critic", "actor"))
    yield "critic loss", metrics["critic_loss"], critic
    yield "weight", metrics["weight"], weight.mean()
    yield "actor loss", metrics["actor_loss"], actor
    yield "critic gradient", norms["critic"], norm(critic, modules.q_funcs.parameters())


def cql():
    n = 10
    agent, batch, b = ours("cql", samples=n, weight=5.0)
    impl, modules = theirs(CQLConfig, agent, gaussian=True)
    impl._alpha_threshold, impl._conservative_weight, impl._n_action_samples = 0.0, 5.0, n
    noise, next_noise = torch.randn(2, n, BATCH, DIM)
    uniform = torch.rand(n, BATCH, DIM)
    with patch("torch.randn", side_effect=[noise, next_noise, noise[:1]]), patch("torch.rand_like", return_value=uniform):
        metrics, norms = our_losses(agent, batch, ("critic", "actor"))

    draws = [noise, next_noise, noise[0]]  # in the order in which d3rlpy draws
    torch.distributions.Normal.rsample = lambda self, shape=(): self.loc + self.scale * draws.pop(0)
    torch.Tensor.uniform_ = lambda self, low, high: self.copy_((2 * uniform - 1).transpose(0, 1).reshape(self.shape))
    conservative = impl._compute_conservative_loss(
        obs_t=b.observations, act_t=b.actions, obs_tp1=b.next_observations, returns_to_go=b.returns_to_go).sum()
    with torch.no_grad():  # the target that d3rlpy has with soft_q_backup, but without entropy, at our sample
        output = modules.policy(b.next_observations)
        action = torch.tanh(output.mu + output.logstd.exp() * next_noise[0])
        target = impl._targ_q_func_forwarder.compute_target(b.next_observations, action, reduction="min")
    td = super(type(impl), impl).compute_critic_loss(b, target).critic_loss
    impl._modules = dataclasses.replace(modules, temp_optim=None)
    actor = impl.compute_actor_loss(b, modules.policy(b.observations)).actor_loss
    yield "TD loss", metrics["td_loss"], td
    yield "conservative loss", metrics["critic_loss"] - metrics["td_loss"], conservative
    yield "actor loss", metrics["actor_loss"], actor
    yield "critic gradient", norms["critic"], norm(td + conservative, modules.q_funcs.parameters())
    yield "actor gradient", norms["actor"], norm(actor, modules.policy.parameters())


class Trained:
    """d3rlpy's policy as our evaluation wants it."""

    def __init__(self, impl, normalizer):
        self.impl, self.normalizer = impl, normalizer

    def act(self, obs, goal):
        best = self.impl.predict_best_action(self.normalizer(obs, goal)).clamp(-1, 1)
        return self.normalizer.center + self.normalizer.scale * best


def scores(task, method, updates, seed, batch_size, lr):
    """(return, success) of our method and of d3rlpy's after training on the same batches."""
    module = load(method)
    settings = copy.deepcopy(module.DEFAULTS)
    o, a = settings.optimisation, settings.algorithm
    o.gamma, o.polyak, o.target_every, o.hidden = GAMMA, 0.995, 1, (256, 256, 256)  # d3rlpy's way of target updates
    o.lr = lr or o.lr
    settings.relabelling.swap = task == "PointMaze"
    env, reached = module.make_env(task)
    if env.spec.vector_entry_point:
        envs = module.gym.make_vec(env.spec.id, num_envs=90, vectorization_mode="vector_entry_point")
    else:
        envs = module.gym.vector.SyncVectorEnv([lambda: env])
    data, _ = module.load_dataset(module.find_dataset(task, None), task, env)
    encoder = VectorEncoderFactory(list(o.hidden))
    networks = {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    rates = {"actor_learning_rate": o.lr, "critic_learning_rate": o.lr}
    config = {
        "td3bc": lambda: TD3PlusBCConfig(alpha=a.alpha, **rates, **networks),
        "iql": lambda: IQLConfig(expectile=a.expectile, weight_temp=a.beta, max_weight=a.weight_clip,
                                 value_encoder_factory=encoder, **rates, **networks),
        "awac": lambda: AWACConfig(lam=a.temperature, n_action_samples=1, **rates, **networks),
        "cql": lambda: CQLConfig(conservative_weight=a.weight, n_action_samples=a.samples, alpha_threshold=0.0,
                                 alpha_learning_rate=0.0, initial_alpha=1.0, temp_learning_rate=o.lr,
                                 soft_q_backup=False, **rates, **networks)}[method]()
    config.gamma, config.tau = GAMMA, 1 - o.polyak
    found = []
    for who in ("ours", "d3rlpy"):
        torch.manual_seed(seed)
        buffer = module.ReplayBuffer(data, settings.relabelling, reached, seed)
        normalizer = module.Normalizer(buffer, env.action_space)
        agent = agent_class(module)(settings, normalizer, env.spec.max_episode_steps, torch.device("cpu"))
        if who == "d3rlpy":
            theirs = config.create(device="cpu:0")
            theirs.create_impl((len(normalizer.mean),), len(normalizer.scale))
            agent = Trained(theirs.impl, normalizer)
        for n in range(1, updates + 1):
            batch = buffer.sample(batch_size)
            if who == "ours":
                agent.update(batch, n)
            else:
                theirs.impl.update(d3rlpy_batch(batch, normalizer), n - 1)
        rows = module.evaluate(agent, envs, task, reached, 90, env.spec.max_episode_steps, torch.device("cpu"))
        found.append(module.summary(rows))
    return [(score["return"], score["success"]) for score in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", metavar="TASK", help="compare scores on this task instead of losses")
    parser.add_argument("--methods", nargs="+", default=["td3bc", "iql", "awac", "cql"])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, help="the method's own by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    if args.scores:
        print(f"{args.scores}, {args.updates} updates: return (success)")
        for method in args.methods:
            for seed in args.seeds:
                pairs = scores(args.scores, method, args.updates, seed, args.batch_size, args.lr)
                print(f"{method:6} seed {seed}", *(f"{name} {x:6.2f} ({y:.2f})" for name, (x, y) in
                                                   zip(("ours", "d3rlpy"), pairs)), sep="   ", flush=True)
        return
    different = False
    print(f"{'':50}{'ours':>12}{'d3rlpy':>12}{'difference':>12}")
    for method in (td3bc, iql, awac, cql):
        for name, a, b in method():
            a, b = a.item(), b.item()
            difference = abs(a - b) / max(abs(a), abs(b))
            different |= difference > (1e-2 if "gradient" in name else 1e-3)
            print(f"{method.__name__ + ': ' + name:50}{a:12.6g}{b:12.6g}{difference:12.1e}")
    sys.exit(different)


if __name__ == "__main__":
    main()
