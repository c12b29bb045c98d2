"""Publishes experts and dataset cards, and builds the tables of data/README.md from the cards only.

    python data/cards.py --expert FetchPush     copies the expert of a finished run of mrn.py to data/experts/, runs it
                                                for 200 episodes that no training has seen, writes its card
    python data/cards.py --dataset FetchPush    adds what data/datasets/FetchPush.npz holds to the card
    python data/cards.py                        rebuilds the tables
    python data/cards.py --check                exit status 1 if the tables are out of date

A card is data/experts/<task>.json; that of PointMaze, whose expert is A* in collect.py, tells of its dataset only.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import collect
import gymnasium as gym
import numpy as np
from collect import EXPERTS, REPOSITORY, ROBOT_TASKS, parse, write

README = REPOSITORY / "data" / "README.md"
GATES = {"FetchReach": 0.99, "FetchPush": 0.95, "FetchPick": 0.90, "FetchSlide": 0.55, "HandBlockZ": 0.95,
         "HandBlockParallel": 0.50, "HandBlockXYZ": 0.60, "HandEggRotate": 0.75}  # success that an expert should have
# DQAPG without swapping, mean and deviation of the return over 50 episodes: Table 3 of the paper
PAPER = {"PointMaze": (34.74, 30.16), "FetchReach": (48.25, 0.86), "FetchPush": (25.33, 17.71),
         "FetchPick": (30.04, 14.79), "FetchSlide": (2.21, 5.60), "HandBlockZ": (35.04, 35.85),
         "HandBlockParallel": (16.80, 25.47), "HandBlockXYZ": (22.66, 28.27), "HandEggRotate": (35.08, 37.28)}


@dataclass
class Args:
    expert: str | None = None  # publish the expert of this task
    dataset: str | None = None  # add the dataset of this task to its card
    runs: Path = Path("runs/experts")  # where mrn.py keeps its runs
    episodes: int = 200  # of the evaluation of an expert
    workers: int = collect.CORES  # processes; the card does not depend on it
    check: bool = False  # only say whether the tables are up to date


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"cards.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def save(task, card):
    write({EXPERTS / f"{task}.json": (json.dumps(card, indent=1) + "\n").encode()})


def read(task):
    path = EXPERTS / f"{task}.json"
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {"task": task}
    except (ValueError, TypeError) as error:
        fail(f"{path}: is not a card ({error}); restore it, e.g. with `git checkout`")


def threshold(task):
    """The attribute of the environment that decides on success, and what the paper's equations (20), (21) say."""
    return ("distance_threshold", 0.01) if task.startswith("Fetch") else ("rotation_threshold", 1.0)


def scores(env, achieved, goals):
    """Return and success at the last step, with their standard errors, of achieved goals (N, T, dim)."""
    reward = env.compute_reward(achieved.reshape(-1, goals.shape[1]), np.repeat(goals, achieved.shape[1], axis=0), {})
    success = reward.reshape(achieved.shape[:2]) == 0
    values = {"return": success.sum(1), "success": success[:, -1], "success_any": success.any(1)}
    return {name: float(x.mean()) for name, x in values.items()} | {
        f"{name}_error": float(x.std() / np.sqrt(len(x))) for name, x in values.items()}


def make_env(task):
    mrn = collect.import_mrn()
    return gym.make(mrn.TASKS[task][0], disable_env_checker=True).unwrapped


def straight_reach(episodes):
    """FetchReach by a controller that heads straight for the goal: what is possible at all, under either rule."""
    robot, achieved, goals = collect.Robot("FetchReach", None), [], []
    for k in range(episodes):
        start = robot.reset(collect.episode_seed("FetchReach", "card", k, 0))
        now, path = start["achieved_goal"], []
        for _ in range(robot.horizon):
            action = np.append(20 * (start["desired_goal"] - now), 0).clip(-1, 1).astype(np.float32)
            now = robot.step(action)[1].copy()
            path.append(now)
        achieved.append(path)
        goals.append(start["desired_goal"])
    result = {}
    for robot.env.distance_threshold in (0.05, 0.01):
        result[f"{100 * robot.env.distance_threshold:g} cm"] = scores(robot.env, np.array(achieved), np.array(goals))
    return result


def git(*command):
    result = subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True)
    return result.stdout.strip() if not result.returncode else ""


def publish_expert(task, args):
    import torch
    run = args.runs / task
    try:
        content = (run / "expert.pt").read_bytes()
        expert = torch.load(run / "expert.pt", weights_only=True)
        progress = next(path for path in (run / "checkpoint.pt", run / "small.pt") if path.exists())
        saved = torch.load(progress, weights_only=True)
        row = next(row for row in saved["progress"]["log"] if row["steps"] == expert["steps"])
        networks, settings = collect.read_expert(content), saved["args"]
        selected_by = {name: expert[name] for name in ("episodes", "success", "return")}
        made = json.loads((run / "args.json").read_text()) if (run / "args.json").exists() else {}
        trained_with = made["versions"] | {"platform": made["platform"], "bf16": made["bf16"]} if made else "unknown"
    except Exception as error:  # a damaged or missing file raises one of many kinds
        fail(f"--expert {task}: no finished run in {run} ({type(error).__name__}: {error}); train it with "
             f"`python data/mrn.py --task {task}` or name another folder with --runs")
    env = make_env(task)
    jobs = [("card", k, 0) for k in range(args.episodes)]  # seeds of their own
    episodes = collect.stack(collect.simulate(task, networks, jobs, args.workers)[0])
    achieved, goals = (episodes[name].astype(np.float64) for name in ("achieved_goals", "desired_goals"))
    attribute, papers = threshold(task)
    card = {"task": task, "env_id": expert["env_id"], "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content), "steps": expert["steps"], "seconds": row["seconds"],
            "evaluation": {"episodes": args.episodes, attribute: getattr(env, attribute)}
            | scores(env, achieved[:, 1:], goals)}
    setattr(env, attribute, papers)
    card["evaluation_papers_equation"] = {attribute: papers} | scores(env, achieved[:, 1:], goals)
    if task == "FetchReach":
        card["straight_controller"] = straight_reach(args.episodes)
    card["gate"], card["gate_reached"] = GATES[task], card["evaluation"]["success"] >= GATES[task]
    card["selected_by"], card["settings"], card["trained_with"] = selected_by, settings, trained_with
    trained = datetime.fromtimestamp((run / "expert.pt").stat().st_mtime, timezone.utc)
    commit, _, date = git("log", "-1", "--format=%H %cI", "--", "data/mrn.py").partition(" ")
    older = date and trained < datetime.fromisoformat(date)
    card["mrn_commit"] = made.get("commit") or commit or "unknown"
    if made.get("commit"):
        card["mrn_sha256"], card["trained"] = made["file_sha256"], "with that commit"
    else:  # before mrn.py wrote it down: by the time of the file
        card["trained"] = "before that commit, with a version of its own" if older else "after that commit"
    before = read(task)
    if before.get("dataset", {}).get("expert", {}).get("sha256") == card["sha256"]:
        card["dataset"] = before["dataset"]
    # first the weights: until the card has followed, collect.py refuses them
    write({EXPERTS / f"{task}.pt": content})
    save(task, card)
    print(f"{EXPERTS / task}.pt: success {card['evaluation']['success']:.3f}, return "
          f"{card['evaluation']['return']:.1f} over {args.episodes} episodes")


def coverage(env, arrays):
    """How much of the goals commanded to one kind of episodes, 200 of them, some state of the other kind achieves."""
    shares, kinds = {}, arrays["source"] == 1
    for name, chosen in (("expert", kinds), ("random", ~kinds)):
        if not chosen.any() or chosen.all():
            continue
        goals = arrays["desired_goals"][~chosen].astype(np.float64)
        goals = goals[np.linspace(0, len(goals) - 1, min(len(goals), 200)).astype(int)]
        achieved = arrays["achieved_goals"][chosen].astype(np.float64).reshape(-1, goals.shape[1])
        shares[f"by_{name}"] = float(np.mean([
            (env.compute_reward(achieved, np.broadcast_to(goal, achieved.shape), {}) == 0).any() for goal in goals]))
    return shares


def add_dataset(task):
    path = REPOSITORY / "data" / "datasets" / f"{task}.npz"
    if not path.exists():
        fail(f"--dataset {task}: {path} does not exist; collect it with `python data/collect.py --task {task}`")
    arrays, manifest = collect.read_dataset(path, "collect it again with --force")
    card = read(task)
    if manifest["task"] != task or manifest["expert"].get("sha256") != card.get("sha256"):
        fail(f"--dataset {task}: {path} was made with another expert than {EXPERTS / task}.pt; collect it again with "
             "--force")
    card["dataset"] = manifest | {"bytes": path.stat().st_size, "goals": len(np.unique(arrays["desired_goals"], axis=0))}
    if task in ROBOT_TASKS:
        card["dataset"]["goals_covered"] = coverage(make_env(task), arrays)
    save(task, card)


def table(head, rows):
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)])


def add_rows(task, card, experts, datasets, rules, hashes):
    """Adds the rows of a card to those of each table."""
    if "evaluation" in card:
        e, p = card["evaluation"], card["evaluation_papers_equation"]
        experts.append([task, f"{card['steps']:,}", f"{card['seconds'] / 60:.0f} min",
                        f"{e['return']:.1f} ± {e['return_error']:.1f}", f"{e['success']:.3f}",
                        f"{e['success_any']:.3f}", f"{card['gate']:.2f}" + " (missed)" * (not card["gate_reached"]),
                        f"`{card['sha256'][:12]}`"])
        name, unit = threshold(task)[0], (100, "cm") if task.startswith("Fetch") else (1, "rad")
        rules.append([task, *(text for x in (e, p) for text in (
            f"{x[name] * unit[0]:g} {unit[1]}", f"{x['return']:.1f} ± {x['return_error']:.1f}",
            f"{x['success']:.3f}")), "{:.2f} ± {:.2f}".format(*PAPER[task])])
        if "straight_controller" in card:
            rules.append([f"{task}, straight to the goal", *(
                text for rule, x in card["straight_controller"].items() for text in (
                    rule, f"{x['return']:.1f} ± {x['return_error']:.1f}", f"{x['success']:.3f}")), ""])
    if "dataset" in card:
        d = card["dataset"]
        both = [[f"{d[kind]['episodes']:,}", f"{d[kind]['return']:.1f}", f"{d[kind]['success']:.3f}"]
                if d[kind]["episodes"] else ["0", "", ""] for kind in ("expert", "random")]
        covered = d.get("goals_covered", {})
        datasets.append([task, *both[0], *both[1], *(f"{covered[x]:.2f}" if x in covered else ""
                                                     for x in ("by_expert", "by_random")),
                         str(sum(d.get("redrawn", {}).values())), f"{d['bytes'] / 1e6:.2g} MB",
                         "{:.2f} ± {:.2f}".format(*PAPER[task])])
        hashes.append([task, f"mujoco {d['versions']['mujoco']}, {d['platform']}",
                       *(f"`{d['sha256'][name][:12]}`" for name in ("observations", "actions", "desired_goals"))])


def tables():
    """The tables of the README by name."""
    cards = {task: read(task) for task in ("PointMaze", *ROBOT_TASKS)}
    experts, datasets, rules, hashes = [], [], [], []
    for task, card in cards.items():
        try:
            add_rows(task, card, experts, datasets, rules, hashes)
        except (LookupError, TypeError, ValueError) as error:
            fail(f"{EXPERTS / task}.json: is not a whole card ({type(error).__name__}: {error}); restore it, e.g. with "
                 "`git checkout`")
    return {
        "experts": table(["task", "steps", "wall time", "return", "success at the end", "at any step", "gate",
                          "SHA-256"], experts),
        "rules": table(["task", "environment", "return", "success", "paper's equation", "return", "success",
                        "paper's DQAPG, return"], rules),
        "datasets": table(["task", "expert episodes", "return", "success", "random episodes", "return", "success",
                           "goals covered by expert", "by random", "redrawn", "size", "paper's DQAPG, return"], datasets),
        "hashes": table(["task", "made with", "observations", "actions", "desired goals"], hashes)}


def rebuild(check):
    old = new = README.read_text()
    for name, text in tables().items():
        start, end = f"<!-- table {name} -->\n", "<!-- end -->"
        before, there, after = new.partition(start)
        _, ends, after = after.partition(end)
        if not there or not ends:
            fail(f"{README}: has no {start.strip()} with an {end}; restore it from git")
        new = before + start + text + "\n" + end + after
    if check:
        print(f"{README}: {'up to date' if new == old else 'out of date, run python data/cards.py'}")
        raise SystemExit(new != old)
    write({README: new.encode()})


def main():
    args = parse(Args, __doc__, fail)
    for flag, task, known in (("expert", args.expert, ROBOT_TASKS), ("dataset", args.dataset, ("PointMaze", *ROBOT_TASKS))):
        if task is not None and task not in known:
            fail(f"--{flag} {task}: unknown; choose from {', '.join(known)}")
    if args.episodes < 1 or args.workers < 1:
        fail(f"--episodes {args.episodes}, --workers {args.workers}: must be at least 1")
    try:
        if args.expert:
            publish_expert(args.expert, args)
        if args.dataset:
            add_dataset(args.dataset)
        rebuild(args.check)
    except OSError as error:
        fail(f"{error.filename or EXPERTS}: {error.strerror or error}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
