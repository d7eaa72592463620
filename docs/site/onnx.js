// A policy as an ONNX file of dqn/networks/onnx.py's form, written in protobuf's wire format.

function onnxFile(numbers, sizes, properties) {
  const text = new TextEncoder();
  const varint = (value) => (value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))]);
  const joined = (parts) => {
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
    return whole;
  };
  const number = (field, value) => [...varint(field * 8), ...varint(value)];
  const bytes = (field, content) => joined([varint(field * 8 + 2), varint(content.length), content]);
  const string = (field, content) => bytes(field, text.encode(content));
  const message = (field, ...parts) => bytes(field, joined(parts));
  const FLOAT = 1, INT = 2;

  const tensor = (name, dims, values) => message(5, ...dims.map((dim) => number(1, dim)), number(2, FLOAT), string(8, name),
    bytes(9, new Uint8Array(Float32Array.from(values).buffer)));
  const node = (operator, inputs, output, ...attributes) => message(1, ...inputs.map((input) => string(1, input)), string(2, output),
    string(4, operator), ...attributes);
  const batch = (field, name, width) => message(field, string(1, name),
    message(2, message(1, number(1, FLOAT), message(2, message(1, string(2, "batch")), message(1, number(1, width))))));

  const { scale, layers } = network(numbers, sizes);
  const tensors = [tensor("layer_0.scale", [scale.length], scale)];
  const nodes = [node("Div", ["observation", "layer_0.scale"], "layer_0")];
  layers.forEach(({ weight, bias }, k) => {
    const end = k + 1 === layers.length, result = end ? "q_values" : `layer_${2 * k + 1}`;
    tensors.push(tensor(`${result}.weight`, [sizes[k + 1], sizes[k]], weight), tensor(`${result}.bias`, [sizes[k + 1]], bias));
    nodes.push(node("Gemm", [`layer_${2 * k}`, `${result}.weight`, `${result}.bias`], result,
      message(5, string(1, "transB"), number(3, 1), number(20, INT))));
    if (!end) nodes.push(node("Relu", [result], `layer_${2 * k + 2}`));
  });
  const graph = message(7, ...nodes, string(2, "q_network"), ...tensors, batch(11, "observation", sizes[0]), batch(12, "q_values", sizes.at(-1)));
  const said = Object.entries(properties).map(([key, value]) => message(14, string(1, key), string(2, value)));
  return joined([number(1, 10), string(2, "dqn-pipeline lab"), graph, message(8, string(1, ""), number(2, 20)), ...said]);
}
