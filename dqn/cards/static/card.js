// A card: the policy in the page's data plays on the stage.
const card = JSON.parse(document.getElementById("data").textContent);
const bytes = Uint8Array.from(atob(card.numbers), (character) => character.charCodeAt(0));
const policy = network(new Float32Array(bytes.buffer), card.sizes);
const shown = stage(document.getElementById("stage"), { ...card, policy: () => policy });
