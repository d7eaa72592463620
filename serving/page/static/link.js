// The link to the server: the show's WebSocket, which connects again when it is lost, and requests.

const LEAST_WAIT = 500; // milliseconds
const MOST_WAIT = 5000;
const REFUSED = 1008; // a close code: these versions cannot be shown, and trying again does not help

export class Link {
  constructor({ heard, opened, lost, refused }) {
    Object.assign(this, { heard, opened, lost, refused, socket: null, token: "", wait: LEAST_WAIT });
  }

  // Watches versions, "" for the one that plays; leaves the show that was watched before.
  watch(versions) {
    const old = this.socket;
    const address = new URL(`api/show?versions=${encodeURIComponent(versions)}`, location.href); // works below any path prefix
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(address));
    old?.close();
    socket.onopen = () => {
      this.wait = LEAST_WAIT;
      this.opened();
    };
    socket.onmessage = ({ data }) => socket === this.socket && this.heard(JSON.parse(data));
    socket.onclose = ({ code }) => {
      if (this.socket !== socket) return;
      if (code === REFUSED && versions) return this.refused();
      this.lost();
      setTimeout(() => this.socket === socket && this.watch(versions), this.wait * (0.75 + Math.random() / 2));
      this.wait = Math.min(this.wait * 1.6, MOST_WAIT);
    };
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(command) {
    if (this.open) this.socket.send(JSON.stringify(command));
  }

  // The JSON answer to a request; an Error with the server's sentence if it is refused.
  async api(path, options = {}) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const response = await fetch(path, { ...options, headers });
    const content = await response.json().catch(() => ({ error: `the server answered with ${response.status}` }));
    if (!response.ok) throw new Error(content.error);
    return content;
  }
}
