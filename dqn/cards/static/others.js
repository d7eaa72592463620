// Acrobot and MountainCar, which a card plays beside CartPole.

const limited = (value, low, high) => Math.min(Math.max(value, low), high);
const wrapped = (angle) => {
  while (angle > Math.PI) angle -= 2 * Math.PI;
  while (angle < -Math.PI) angle += 2 * Math.PI;
  return angle;
};

Object.assign(ENVIRONMENTS, {
  "Acrobot-v1": {
    limit: 500, fps: 15, world: { length: 1, masspole: 1, inertia: 1, tau: 0.2 },
    knobs: { length: ["Link length", 0.5, 2, "m"], masspole: ["Link mass", 0.3, 3, "kg"], action_delay: ["Motor delay", 0, 6, "steps"] },
    endings: () => "Reached the height",
    reset: (random) => [0, 0, 0, 0].map(() => Math.fround(uniform(random, -0.1, 0.1))),
    step(state, action, world) {
      const { length: l, masspole: m, inertia: I, tau } = world, c = 0.5, g = 9.8;
      const slope = ([first, second, spin1, spin2]) => {
        const d1 = m * c ** 2 + m * (l ** 2 + c ** 2 + 2 * l * c * Math.cos(second)) + I + I;
        const d2 = m * (c ** 2 + l * c * Math.cos(second)) + I;
        const phi2 = m * c * g * Math.cos(first + second - Math.PI / 2);
        const phi1 = -m * l * c * (spin2 * spin2) * Math.sin(second) - 2 * m * l * c * spin2 * spin1 * Math.sin(second) +
          (m * c + m * l) * g * Math.cos(first - Math.PI / 2) + phi2;
        const turn2 = (action - 1 + (d2 / d1) * phi1 - m * l * c * (spin1 * spin1) * Math.sin(second) - phi2) /
          (m * c ** 2 + I - (d2 * d2) / d1);
        return [spin1, spin2, -(d2 * turn2 + phi1) / d1, turn2];
      };
      const along = (by, ways) => state.map((value, i) => value + by * ways[i]);
      const k1 = slope(state), k2 = slope(along(tau / 2, k1)), k3 = slope(along(tau / 2, k2)), k4 = slope(along(tau, k3));
      const [a, b, u, v] = state.map((value, i) => value + (tau / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]));
      return [wrapped(a), wrapped(b), limited(u, -4 * Math.PI, 4 * Math.PI), limited(v, -9 * Math.PI, 9 * Math.PI)];
    },
    ended: ([first, second]) => -Math.cos(first) - Math.cos(second + first) > 1,
    reward: (ended) => (ended ? 0 : -1),
    observe: ([a, b, u, v]) => [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b), u, v],
    draw(pen, width, height, [first, second], world, colours) {
      const l = world.length, scale = (Math.min(width, height) * 0.46) / (2 * l), at = [width / 2, height / 2];
      line(pen, [[width * 0.08, at[1] - scale], [width * 0.92, at[1] - scale]], colours.line, 2, [4, 6]);
      const elbow = [at[0] + l * scale * Math.sin(first), at[1] + l * scale * Math.cos(first)];
      const tip = [elbow[0] + l * scale * Math.sin(first + second), elbow[1] + l * scale * Math.cos(first + second)];
      line(pen, [at, elbow], colours.ink, 0.16 * scale);
      line(pen, [elbow, tip], colours.accent, 0.16 * scale);
      for (const joint of [at, elbow]) disc(pen, ...joint, 0.05 * scale, colours.paper);
    },
  },
  "MountainCar-v0": {
    limit: 200, fps: 30, world: { gravity: 0.0025, force_mag: 0.001 },
    knobs: { gravity: ["Gravity", 0.001, 0.004, ""], force_mag: ["Motor", -0.002, 0.002, ""], action_delay: ["Motor delay", 0, 6, "steps"] },
    endings: () => "Reached the flag",
    reset: (random) => [uniform(random, -0.6, -0.4), 0],
    step([position, speed], action, world) {
      speed = limited(speed + ((action - 1) * world.force_mag + Math.cos(3 * position) * -world.gravity), -0.07, 0.07);
      position = limited(position + speed, -1.2, 0.6);
      return [position, position === -1.2 && speed < 0 ? 0 : speed];
    },
    ended: ([position, speed]) => position >= 0.5 && speed >= 0,
    reward: () => -1,
    observe: (state) => state,
    draw(pen, width, height, [position], world, colours) {
      const scale = (width * 0.92) / 1.8, hill = (x) => [width * 0.04 + (x + 1.2) * scale, height * 0.86 - (Math.sin(3 * x) * 0.45 + 0.55) * Math.min(scale, height * 0.62)];
      line(pen, Array.from({ length: 91 }, (_, i) => hill(-1.2 + i * 0.02)), colours.line, 2);
      const flag = hill(0.5), car = hill(position);
      line(pen, [flag, [flag[0], flag[1] - 40]], colours.ink, 2);
      line(pen, [[flag[0], flag[1] - 36], [flag[0] + 14, flag[1] - 31]], colours.accent, 8);
      pen.save();
      pen.translate(...car);
      const [before, after] = [hill(position - 0.01), hill(position + 0.01)];
      pen.rotate(Math.atan2(after[1] - before[1], after[0] - before[0]));
      pen.fillStyle = colours.accent;
      pen.beginPath();
      pen.roundRect(-20, -24, 40, 16, 5);
      pen.fill();
      for (const wheel of [-11, 11]) disc(pen, wheel, -7, 6, colours.ink);
      pen.restore();
    },
  },
});
