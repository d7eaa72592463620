// DQN for one agent of a population, with typed arrays: dqn/training in the small, held to it by shared vectors in the
// tests. Runs in a worker, after play.js.

// dqn/presets.py, `cartpole`. Networks are [scale, weight, bias, weight, bias, ...] in one array, as in play.js.
const PRESET = {
  hidden: [32, 32], scale: [2.4, 2.0, 0.2095, 2.0], initialQ: 1, envs: 96, capacity: 12800, batch: 128, minBatches: 10,
  epsilonEnd: 0.2, epsilonUpdates: 400, gamma: 0.995, nStep: 5, rewardScale: 0.005, rate: 7e-3, rateEnd: 2e-4,
  rateUpdates: 1200, betas: [0.9, 0.99], eps: 1e-4, decay: 0, tau: 0.2, averageRate: 0.01, maxUpdates: 4000,
  evalStart: 900, evalInterval: 150, evalEpisodes: 4, acceptEpisodes: 100, acceptEpsilon: 0.1, limit: 500,
};

// Small and quick: sfc32 (Doty-Humphrey), in [0, 1).
function quick(seed) {
  let a = seed | 0, b = 0x9e3779b9, c = 0x243f6a88, d = 1;
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return (t >>> 0) / 4294967296;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

const sizesOf = (settings) => [4, ...settings.hidden, 2];
const countOf = (sizes) => sizes.slice(1).reduce((sum, out, k) => sum + out * (sizes[k] + 1), sizes[0]);

// Outputs [rows, nout] of inputs [rows, nin]; four outputs at a time, so that an input is loaded once for them.
function dense(weights, at, input, output, rows, nin, nout, relu) {
  const biasAt = at + nin * nout;
  for (let o = 0; o < nout; o += 4) {
    const four = o + 4 <= nout, w0 = at + o * nin, w1 = w0 + nin, w2 = w1 + nin, w3 = w2 + nin;
    for (let row = 0; row < rows; row++) {
      const from = row * nin, to = row * nout + o;
      if (four) {
        let s0 = weights[biasAt + o], s1 = weights[biasAt + o + 1], s2 = weights[biasAt + o + 2], s3 = weights[biasAt + o + 3];
        for (let i = 0; i < nin; i++) {
          const x = input[from + i];
          s0 += weights[w0 + i] * x;
          s1 += weights[w1 + i] * x;
          s2 += weights[w2 + i] * x;
          s3 += weights[w3 + i] * x;
        }
        output[to] = relu && s0 < 0 ? 0 : s0;
        output[to + 1] = relu && s1 < 0 ? 0 : s1;
        output[to + 2] = relu && s2 < 0 ? 0 : s2;
        output[to + 3] = relu && s3 < 0 ? 0 : s3;
      } else {
        for (let k = o; k < nout; k++) {
          let sum = weights[biasAt + k];
          for (let i = 0; i < nin; i++) sum += weights[at + k * nin + i] * input[from + i];
          output[row * nout + k] = relu && sum < 0 ? 0 : sum;
        }
      }
    }
  }
}

// A network's passes over up to `rows` observations. Weights are copied to float64 once a pass.
function passes(sizes, rows) {
  const last = sizes.length - 1, weights = new Float64Array(countOf(sizes));
  const activations = sizes.map((size) => new Float64Array(rows * size));
  const errors = sizes.map((size) => new Float64Array(rows * size)), starts = [];
  sizes.slice(1).reduce((at, out, k) => (starts.push(at), at + out * (sizes[k] + 1)), sizes[0]);
  // Q-values [count, 2] of observations [count, 4], which are in `given` with this stride from `offset` on.
  function forward(numbers, given, count, stride = sizes[0], offset = 0) {
    weights.set(numbers);
    for (let row = 0; row < count; row++)
      for (let i = 0; i < sizes[0]; i++) activations[0][row * sizes[0] + i] = given[row * stride + offset + i] / weights[i];
    for (let k = 0; k < last; k++) dense(weights, starts[k], activations[k], activations[k + 1], count, sizes[k], sizes[k + 1], k + 1 < last);
    return activations[last];
  }
  // Gradient by every weight after `forward`, of outputs whose gradient is `errors[last]`.
  function backward(gradient, count) {
    for (let k = last - 1; k >= 0; k--) {
      const nin = sizes[k], nout = sizes[k + 1], at = starts[k], input = activations[k], error = errors[k + 1], before = errors[k];
      gradient.fill(0, at, at + nout * (nin + 1));
      before.fill(0, 0, count * nin);
      for (let row = 0; row < count; row++) {
        const from = row * nin;
        for (let o = 0; o < nout; o++) {
          const e = error[row * nout + o], to = at + o * nin;
          if (e === 0) continue; // half of them, behind a ReLU
          gradient[at + nin * nout + o] += e;
          for (let i = 0; i < nin; i++) gradient[to + i] += e * input[from + i];
          if (k) for (let i = 0; i < nin; i++) before[from + i] += e * weights[to + i];
        }
        for (let i = 0; i < nin; i++) if (input[from + i] <= 0) before[from + i] = 0;
      }
    }
  }
  return { forward, backward, error: errors[last] };
}

// A step of AdamW (Loshchilov and Hutter, 2019); the first `skip` numbers are the scale and stay.
function adam(numbers, gradient, mean, square, updates, rate, { betas, eps, decay }, skip) {
  const [b1, b2] = betas, kept = 1 - rate * decay;
  const length = rate / (1 - b1 ** (updates + 1)), correction = 1 / Math.sqrt(1 - b2 ** (updates + 1));
  for (let i = skip; i < numbers.length; i++) {
    const g = gradient[i], m = (mean[i] = b1 * mean[i] + (1 - b1) * g), v = (square[i] = b2 * square[i] + (1 - b2) * g * g);
    numbers[i] = numbers[i] * kept - (length * m) / (Math.sqrt(v) * correction + eps);
  }
}

const ROW = 11; // of the replay buffer: observation, next observation, action, reward, discount

// n-step returns (Sutton, 1988) of one environment, as dqn/experience/nstep.py; `emit` gets a finished row.
function nStep({ nStep: n, gamma, rewardScale }, emit) {
  const rows = Array.from({ length: n }, () => new Float32Array(ROW)), weight = new Float64Array(n);
  const begun = new Uint8Array(n);
  let steps = 0;
  return (before, action, reward, after, terminated, truncated) => {
    const slot = steps++ % n, row = rows[slot];
    for (let i = 0; i < 4; i++) row[i] = before[i];
    row[8] = action;
    row[9] = row[10] = 0;
    weight[slot] = begun[slot] = 1;
    for (let k = 0; k < n; k++) {
      if (weight[k] === 0) continue;
      rows[k][9] += weight[k] * rewardScale * reward;
      weight[k] *= gamma;
      for (let i = 0; i < 4; i++) rows[k][4 + i] = after[i];
      rows[k][10] = terminated ? 0 : weight[k];
      if (terminated || truncated) weight[k] = 0;
    }
    const oldest = steps % n;
    if (begun[oldest]) emit(rows[oldest]);
  };
}

// One agent: its networks, replay buffer and environments. `update` takes a step in each environment and then an update.
function agent(settings, seed) {
  const sizes = sizesOf(settings), count = countOf(sizes), random = quick(seed), world = ENVIRONMENTS["CartPole-v1"];
  const online = new Float32Array(count), gradient = new Float64Array(count);
  online.set(settings.scale);
  sizes.slice(1).reduce((at, out, k) => {
    const end = at + out * (sizes[k] + 1), bound = 1 / Math.sqrt(sizes[k]);
    for (let i = at; i < end; i++) online[i] = (2 * random() - 1) * bound;
    return end;
  }, sizes[0]);
  for (let i = count - 2; i < count; i++) online[i] += settings.initialQ;
  const target = online.slice(), average = online.slice(), mean = new Float32Array(count), square = new Float32Array(count);
  const { envs, batch, capacity } = settings, pass = passes(sizes, Math.max(envs, batch, settings.acceptEpisodes));
  const replay = new Float32Array(capacity * ROW), picked = new Float32Array(batch * ROW), values = new Float64Array(batch);
  let filled = 0, at = 0;
  const insert = (row) => {
    replay.set(row, at * ROW);
    at = (at + 1) % capacity;
    filled = Math.min(filled + 1, capacity);
  };
  const observed = new Float32Array(envs * 4), after = new Float32Array(4);
  const states = Array.from({ length: envs }, () => world.reset(random)), lengths = new Uint16Array(envs);
  const pending = Array.from({ length: envs }, () => nStep(settings, insert));
  const self = { online, target, average, gradient, mean, square, updates: 0, steps: 0, solved: false, recent: 0, learn, update };

  function collect() {
    const epsilon = 1 + (settings.epsilonEnd - 1) * Math.min(self.updates / settings.epsilonUpdates, 1);
    for (let e = 0; e < envs; e++) observed.set(states[e], e * 4);
    const q = pass.forward(online, observed, envs);
    for (let e = 0; e < envs; e++) {
      const action = random() < epsilon ? (random() < 0.5 ? 0 : 1) : q[2 * e + 1] > q[2 * e] ? 1 : 0;
      states[e] = world.step(states[e], action, world.world);
      after.set(states[e]);
      const terminated = world.ended(states[e]), truncated = ++lengths[e] >= settings.limit;
      pending[e](observed.subarray(e * 4, e * 4 + 4), action, 1, after, terminated, truncated);
      if (!terminated && !truncated) continue;
      self.recent += 0.03 * (lengths[e] - self.recent);
      states[e] = world.reset(random);
      lengths[e] = 0;
    }
    self.steps += envs;
  }
  // A gradient update on rows [batch, ROW]: squared TD error to the target network's greatest value.
  function learn(rows) {
    const next = pass.forward(target, rows, batch, ROW, 4);
    for (let row = 0; row < batch; row++) values[row] = rows[row * ROW + 9] + rows[row * ROW + 10] * Math.max(next[2 * row], next[2 * row + 1]);
    const q = pass.forward(online, rows, batch, ROW);
    pass.error.fill(0, 0, 2 * batch);
    for (let row = 0; row < batch; row++) {
      const taken = 2 * row + rows[row * ROW + 8];
      pass.error[taken] = (2 * (q[taken] - values[row])) / batch;
    }
    pass.backward(gradient, batch);
    const rate = settings.rate + (settings.rateEnd - settings.rate) * Math.min(self.updates / settings.rateUpdates, 1);
    adam(online, gradient, mean, square, self.updates, rate, settings, sizes[0]);
    self.updates++;
    for (let i = sizes[0]; i < count; i++) {
      target[i] += settings.tau * (online[i] - target[i]);
      average[i] += settings.averageRate * (online[i] - average[i]);
    }
  }
  function update() {
    collect();
    if (filled < batch * settings.minBatches) return;
    for (let row = 0; row < batch; row++) {
      const from = Math.floor(random() * filled) * ROW;
      for (let i = 0; i < ROW; i++) picked[row * ROW + i] = replay[from + i];
    }
    learn(picked);
    const { updates } = self, { evalStart, evalInterval, evalEpisodes, acceptEpisodes, acceptEpsilon } = settings;
    if (updates < evalStart || (updates - evalStart) % evalInterval) return;
    self.solved = balances(evalEpisodes, 0) && balances(acceptEpisodes, 0) && balances(acceptEpisodes, acceptEpsilon);
  }
  // Whether every one of so many fresh episodes of the average network reaches the limit.
  function balances(episodes, epsilon) {
    const playing = Array.from({ length: episodes }, () => world.reset(random)), seen = new Float32Array(episodes * 4);
    for (let step = 0; step < settings.limit; step++) {
      for (let e = 0; e < episodes; e++) seen.set(playing[e], e * 4);
      const q = pass.forward(average, seen, episodes);
      for (let e = 0; e < episodes; e++) {
        const action = epsilon && random() < epsilon ? (random() < 0.5 ? 0 : 1) : q[2 * e + 1] > q[2 * e] ? 1 : 0;
        playing[e] = world.step(playing[e], action, world.world);
        if (step + 1 < settings.limit && world.ended(playing[e])) return false;
      }
    }
    return true;
  }
  return self;
}

// In a worker: trains agents side by side and tells the page, every tenth of a second and when one is accepted.
function trainHere({ settings, first, agents }) {
  const learning = Array.from({ length: agents }, (_, k) => [first + k, agent(settings, settings.seed * 1000003 + (first + k) * 7919)]);
  let told = 0;
  const tell = ([index, { updates, steps, solved, recent, average }]) => postMessage({ index, updates, steps, solved, recent, numbers: average });
  while (learning.length) {
    for (const one of [...learning]) {
      for (let i = 0; i < 10 && !one[1].solved && one[1].updates < settings.maxUpdates; i++) one[1].update();
      if (!one[1].solved && one[1].updates < settings.maxUpdates) continue;
      tell(one);
      learning.splice(learning.indexOf(one), 1);
    }
    if (performance.now() - told < 100) continue;
    learning.forEach(tell);
    told = performance.now();
  }
  close();
}
