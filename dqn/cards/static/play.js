// Policies and their worlds: the forward pass, Gymnasium's seeds and equations in float64, and the drawing.
// Shared by the card of a policy and by the lab, as a plain script without imports.
"use strict";

// The network [obs, hidden..., actions] in float32 numbers: the observation's scale, then weight [out, in] and bias a layer.
function network(numbers, sizes) {
  let at = sizes[0];
  const take = (count) => numbers.subarray(at, (at += count));
  const layers = sizes.slice(1).map((out, k) => ({ weight: take(out * sizes[k]), bias: take(out) }));
  return { scale: numbers.subarray(0, sizes[0]), layers };
}

// Q-values [actions] of an observation [obs].
function qValues({ scale, layers }, observation) {
  let values = Float32Array.from(observation, (entry, i) => entry / scale[i]);
  layers.forEach(({ weight, bias }, k) => {
    const given = values;
    values = Float32Array.from(bias, (sum, o) => {
      for (let i = 0; i < given.length; i++) sum += weight[o * given.length + i] * given[i];
      return k + 1 < layers.length && sum < 0 ? 0 : sum;
    });
  });
  return values;
}

// The first action of the greatest Q-value.
const greedy = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0);

// numpy.random.default_rng(seed).random(): SeedSequence, then PCG64 (O'Neill, 2014), so that seeds are Gymnasium's.
function generator(seed) {
  const pool = [0, 0, 0, 0];
  const words = seed < 2 ** 32 ? [seed] : [seed >>> 0, Math.floor(seed / 2 ** 32)];
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const value = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) | 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  for (let i = 0; i < 4; i++) pool[i] = hash(words[i] ?? 0);
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  let output = 0x8b51f9dd;
  const state = Array.from({ length: 8 }, (_, i) => {
    let value = pool[i % 4] ^ output;
    output = Math.imul(output, 0x58f38ded);
    value = Math.imul(value, output);
    return BigInt((value ^ (value >>> 16)) >>> 0);
  });
  const wide = (i) => state[i] | (state[i + 1] << 32n);
  const mask = (1n << 128n) - 1n, multiplier = 0x2360ed051fc65da44385df649fccf645n;
  const increment = (((wide(4) << 64n) | wide(6)) << 1n | 1n) & mask;
  let current = (increment + ((wide(0) << 64n) | wide(2))) & mask;
  current = (current * multiplier + increment) & mask;
  return () => {
    current = (current * multiplier + increment) & mask;
    const folded = (current >> 64n) ^ (current & 0xffffffffffffffffn), turn = current >> 122n;
    const turned = ((folded >> turn) | (folded << ((64n - turn) & 63n))) & 0xffffffffffffffffn;
    return Number(turned >> 11n) / 2 ** 53;
  };
}
const uniform = (random, low, high) => low + (high - low) * random();

const FALL = (12 * 2 * Math.PI) / 360;

// Each as Gymnasium defines it: reset(random) gives a state, step(state, action, world, push) the next one, ended(state)
// whether it terminates. A knob is [label, least, greatest, unit]; its value in the world of Gymnasium stands in `world`.
const ENVIRONMENTS = {
  "CartPole-v1": {
    limit: 500, fps: 50, pushable: true,
    world: { length: 0.5, masspole: 0.1, masscart: 1, gravity: 9.8, force_mag: 10, tau: 0.02, wind: 0 },
    knobs: {
      length: ["Half pole length", 0.1, 2, "m"], gravity: ["Gravity", 0, 30, "m/s²"],
      force_mag: ["Motor", -20, 20, "N"], wind: ["Wind", -6, 6, "N"], masscart: ["Cart mass", 0.3, 4, "kg"],
      action_delay: ["Motor delay", 0, 6, "steps"], tilt: ["Angle sensor error", -6, 6, "°"],
    },
    endings: (state) => (Math.abs(state[0]) > 2.4 ? "Left the track" : "Fell"),
    reset: (random) => [0, 0, 0, 0].map(() => uniform(random, -0.05, 0.05)),
    step([x, speed, angle, spin], action, world, push = 0) {
      const motor = world.force_mag + (2 * action - 1) * (world.wind + push);
      const force = action === 1 ? motor : -motor;
      const mass = world.masspole + world.masscart, moment = world.masspole * world.length;
      const cos = Math.cos(angle), sin = Math.sin(angle);
      const temp = (force + moment * (spin * spin) * sin) / mass;
      const turning = (world.gravity * sin - cos * temp) / (world.length * (4 / 3 - (world.masspole * (cos * cos)) / mass));
      const pulling = temp - (moment * turning * cos) / mass;
      const { tau } = world;
      return [x + tau * speed, speed + tau * pulling, angle + tau * spin, spin + tau * turning];
    },
    ended: ([x, , angle]) => x < -2.4 || x > 2.4 || angle < -FALL || angle > FALL,
    reward: () => 1,
    observe: (state) => state,
    draw(pen, width, height, [x, , angle], world, colours, push = 0) {
      const reach = Math.max(2 * world.length, 0.9), scale = Math.min(width / 5.2, (height * 0.68) / reach);
      const ground = height * 0.78, cart = [0.46 * scale, 0.24 * scale], middle = width / 2 + x * scale;
      const top = ground - cart[1];
      line(pen, [[width / 2 - 2.4 * scale, ground], [width / 2 + 2.4 * scale, ground]], colours.line, Math.max(1, 0.02 * scale));
      for (const end of [-2.4, 2.4]) {
        const at = width / 2 + end * scale;
        line(pen, [[at, ground - 0.08 * scale], [at, ground + 0.08 * scale]], colours.line, Math.max(1, 0.02 * scale));
      }
      pen.fillStyle = colours.ink;
      pen.beginPath();
      pen.roundRect(middle - cart[0] / 2, top, cart[0], cart[1], 0.05 * scale);
      pen.fill();
      const pole = 2 * world.length * scale;
      line(pen, [[middle, top], [middle + pole * Math.sin(angle), top - pole * Math.cos(angle)]], colours.accent, 0.085 * scale);
      disc(pen, middle, top, 0.03 * scale, colours.paper);
      if (push) arrow(pen, middle - Math.sign(push) * (cart[0] / 2 + 6), top + cart[1] / 2, Math.sign(push), 20 + Math.abs(push) / 2, colours.ink);
    },
  },
};

// One episode of a policy in a world that may change at any time, with another limit of steps if one is given.
function episode(environment, seed, world, limit = ENVIRONMENTS[environment].limit) {
  const { observe, step, ended, reward } = ENVIRONMENTS[environment];
  const actions = [];
  const current = { seed, state: ENVIRONMENTS[environment].reset(generator(seed)), steps: 0, total: 0, over: "", untouched: true };
  current.observation = () => {
    const seen = Float32Array.from(observe(current.state)), bias = world.sensor_bias ?? [];
    for (let i = 0; i < bias.length; i++) seen[i] += Math.fround(bias[i]);
    if (world.tilt) seen[2] += Math.fround((world.tilt * Math.PI) / 180);
    return seen;
  };
  current.step = (action, push = 0) => {
    actions.push(action);
    const late = Math.min(world.action_delay ?? 0, actions.length - 1);
    current.state = step(current.state, actions[actions.length - 1 - late], world, push);
    current.steps++;
    const fell = ended(current.state);
    current.total += reward(fell);
    if (fell) current.over = ENVIRONMENTS[environment].endings(current.state);
    else if (current.steps >= limit) current.over = `${limit} steps`;
  };
  return current;
}

function line(pen, points, colour, width, dashes = []) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineCap = pen.lineJoin = "round";
  pen.setLineDash(dashes);
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
}

function disc(pen, x, y, radius, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function arrow(pen, x, y, side, long, colour) {
  line(pen, [[x - side * long, y], [x - side * 4, y]], colour, 4);
  line(pen, [[x - side * 11, y - 7], [x - side * 3, y], [x - side * 11, y + 7]], colour, 4);
}
