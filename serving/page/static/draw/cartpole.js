// Draws CartPole with the geometry of Gymnasium's CartPoleEnv.render, 600 x 400 pixels.

const [WIDTH, HEIGHT] = [600, 400];
const SCALE = WIDTH / 4.8; // pixels per metre: the track is twice x_threshold wide
const CART = { width: 50, height: 30, y: 100 };
const POLE_WIDTH = 10;
const AXLE_OFFSET = CART.height / 4;
const ROOM = -CART.y - AXLE_OFFSET - 16; // above the axle, for the pole, less than the picture's height
const TRACK_END = 2.4; // metres
const FALL_ANGLE = (12 * Math.PI) / 180;

// Pygame fills whole pixels including edges; Gymnasium flips the picture, so rows count from below.
const X = (x) => x + 0.5;
const Y = (y) => HEIGHT - 0.5 - y;
const PUSH_STEPS = 12; // a push lasts one step and is drawn for so many

function polygon(context, points, colour) {
  context.beginPath();
  points.forEach(([x, y], index) => (index ? context.lineTo(X(x), Y(y)) : context.moveTo(X(x), Y(y))));
  context.closePath();
  context.fillStyle = context.strokeStyle = colour;
  context.lineWidth = 1;
  context.fill();
  context.stroke();
}

// state: [x, x_dot, theta, theta_dot]; options: colours, half pole length in metres, push in newtons, ratio of pixels,
// believed: the observation if sensor errors make it differ from the state, height: of the picture, cut off above
export function drawCartPole(canvas, state, { colours, length = 0.5, push = 0, ratio = 1, believed = null, height = HEIGHT }) {
  const width = Math.round(WIDTH * ratio);
  if (canvas.width !== width) {
    canvas.width = width;
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, (height - HEIGHT) * ratio);
  context.fillStyle = colours.background;
  context.fillRect(0, 0, WIDTH, HEIGHT);
  const zoom = Math.min(1, (height + ROOM) / (SCALE * 2 * length)); // zoom out for a pole that is too long for the picture
  context.translate(WIDTH / 2, Y(CART.y));
  context.scale(zoom, zoom);
  context.translate(-WIDTH / 2, -Y(CART.y));
  const [x, , theta] = state;
  const cartX = x * SCALE + WIDTH / 2;
  const axleY = CART.y + AXLE_OFFSET;
  const whole = SCALE * 2 * length;
  for (const end of [-FALL_ANGLE, FALL_ANGLE]) drawDashed(context, [x, 0, end], whole, colours.guide, 1);
  const half = CART.width / 2;
  const [low, high] = [CART.y - CART.height / 2, CART.y + CART.height / 2];
  polygon(context, [[cartX - half, low], [cartX - half, high], [cartX + half, high], [cartX + half, low]], colours.cart);
  const reach = whole - POLE_WIDTH / 2;
  const [sine, cosine] = [Math.sin(-theta), Math.cos(-theta)];
  const pole = [[-5, -5], [-5, reach], [5, reach], [5, -5]].map(([px, py]) => [
    px * cosine - py * sine + cartX, px * sine + py * cosine + axleY,
  ]);
  polygon(context, pole, colours.pole);
  context.beginPath();
  context.arc(X(cartX), Y(axleY), POLE_WIDTH / 2, 0, 2 * Math.PI);
  context.fillStyle = context.strokeStyle = colours.axle;
  context.fill();
  context.stroke();
  context.fillStyle = colours.track;
  context.fillRect(WIDTH * (0.5 - 0.5 / zoom), Math.floor(Y(CART.y)), WIDTH / zoom, 1 / zoom);
  if (zoom < 1) for (const end of [-TRACK_END, TRACK_END]) context.fillRect(X(end * SCALE + WIDTH / 2), Y(CART.y + 8), 2, 16);
  if (believed) drawDashed(context, believed, whole, colours.push, 2);
  if (push) drawPush(context, cartX, push, colours.push);
}

// A dashed line from the axle, at an angle: where an episode ends, or the pole as the policy observes it.
function drawDashed(context, [x, , theta], reach, colour, width) {
  const [cartX, axleY] = [x * SCALE + WIDTH / 2, CART.y + AXLE_OFFSET];
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash([3 * width, 5]);
  context.beginPath();
  context.moveTo(X(cartX), Y(axleY));
  context.lineTo(X(cartX + reach * Math.sin(theta)), Y(axleY + reach * Math.cos(theta)));
  context.stroke();
  context.setLineDash([]);
}

function drawPush(context, cartX, push, colour) {
  const side = Math.sign(push);
  const long = 14 + Math.min(60, Math.abs(push) / 2);
  const tip = X(cartX) - side * (CART.width / 2 + 6);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = 4;
  context.beginPath();
  context.moveTo(tip - side * long, Y(CART.y));
  context.lineTo(tip - side * 8, Y(CART.y));
  context.stroke();
  context.beginPath();
  context.moveTo(tip, Y(CART.y));
  context.lineTo(tip - side * 12, Y(CART.y) - 8);
  context.lineTo(tip - side * 12, Y(CART.y) + 8);
  context.fill();
}

// The force of a push that is still drawn: of pushes [{step, force}], after so many steps.
export function lately(pushes, steps) {
  return pushes.findLast(({ step }) => step < steps && steps <= step + PUSH_STEPS)?.force ?? 0;
}

// Why the state ended an episode, as a word; empty for the time limit. States have four decimals here.
export function fallen([x, , theta]) {
  if (Math.abs(x) >= 2.4) return "Left the track";
  return Math.abs(theta) >= 0.2094 ? "Fell" : "";
}
