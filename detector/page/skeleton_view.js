// Shows an image with the skeletons of the persons in it, as SVG: sharp at any size, and readable for scripts.
// Every point has data-person, data-keypoint, data-part and data-confidence; cx and cy are pixels of the image.

const NAMES = { body: "Body", feet: "Feet", face: "Face", left_hand: "Left hand", right_hand: "Right hand", box: "Box" };
const LARGE = new Set(["body", "feet"]);

export default {
  props: {
    parts: Array, // {name, colour, start, stop}
    edges: Array, // pairs of keypoint indices
    threshold: Number,
    picture: String, // address of an image to show; null: the user brings one
    answer: String, // address of its poses
    card: String, // address of an example
  },
  template: `
    <div class="skeleton-view">
      <div
        class="skeleton-stage"
        :class="{ dragging, filled: url || camera }"
        @dragover.prevent="dragging = accepts"
        @dragleave="dragging = false"
        @drop.prevent="drop"
      >
        <div v-show="camera" class="skeleton-camera">
          <video ref="video" autoplay playsinline muted></video>
          <div class="skeleton-camera-bar">
            <q-btn round unelevated color="primary" icon="photo_camera" aria-label="Take the picture" @click="shoot" />
            <q-btn round flat color="white" icon="cameraswitch" aria-label="Other camera" @click="turnCamera" />
            <q-btn round flat color="white" icon="close" aria-label="Close the camera" @click="closeCamera" />
          </div>
        </div>
        <div v-if="url && !camera" class="skeleton-frame" ref="frame" :style="frameStyle">
          <img :src="url" alt="" draggable="false" @load="loaded" @error="unreadable" />
          <svg v-if="poses.length" :viewBox="viewBox" aria-label="Skeletons">
            <g v-for="person in drawn" :key="person.index" :data-person="person.index">
              <rect
                v-if="shown.box" class="box" :x="person.box.x" :y="person.box.y" :width="person.box.width"
                :height="person.box.height" :data-person="person.index" :data-confidence="person.confidence"
                :stroke-width="2 * person.unit"
              />
              <line
                v-for="limb in person.limbs" :key="limb.key" :x1="limb.a.x" :y1="limb.a.y" :x2="limb.b.x"
                :y2="limb.b.y" :stroke="limb.colour" :stroke-width="1.8 * person.unit" :data-part="limb.part"
              />
              <circle
                v-for="point in person.points" :key="point.name" class="point" :cx="point.x" :cy="point.y"
                :r="point.r" :fill="point.colour" :stroke-width="0.6 * person.unit" :data-person="person.index"
                :data-keypoint="point.name" :data-part="point.part" :data-confidence="point.confidence"
                @pointerenter="pointed = {person: person.index, point}" @pointerleave="pointed = null"
              ><title>{{ point.name }} {{ point.confidence.toFixed(2) }}</title></circle>
            </g>
          </svg>
        </div>
        <div v-if="!url && !camera" class="skeleton-empty">
          <q-icon :name="accepts ? 'add_photo_alternate' : 'hourglass_empty'" size="44px" />
          <div v-if="accepts">Drop an image here, or choose one below.</div>
          <div v-if="accepts" class="faint">It stays on this node, and nothing of it is kept.</div>
        </div>
        <q-inner-loading :showing="busy" />
      </div>

      <div v-if="error" class="notice error" role="alert">{{ error }}</div>
      <div class="skeleton-caption" aria-live="polite">{{ caption }}</div>

      <div v-if="accepts" class="skeleton-sources">
        <q-btn unelevated no-caps color="primary" icon="image" label="Choose image" @click="$refs.file.click()" />
        <q-btn outline no-caps color="primary" icon="photo_camera" label="Camera" @click="openCamera(facing)" />
        <q-btn v-if="card" flat no-caps color="primary" icon="grid_on" label="Test card" @click="showCard" />
        <input ref="file" type="file" accept="image/jpeg,image/png,image/webp" hidden @change="chosen" />
        <input ref="shot" type="file" accept="image/*" capture="environment" hidden @change="chosen" />
      </div>

      <div class="skeleton-parts" role="group" aria-label="What is drawn">
        <button
          v-for="part in toggles" :key="part.name" type="button" class="part" :data-toggle="part.name"
          :aria-pressed="String(shown[part.name])" @click="shown[part.name] = !shown[part.name]"
        ><span class="dot" :style="{ '--colour': part.colour }"></span>{{ part.label }}</button>
      </div>
      <div class="skeleton-threshold">
        <span>Confidence from <b>{{ limit.toFixed(2) }}</b></span>
        <q-slider v-model="limit" :min="0" :max="1" :step="0.01" aria-label="Least confidence that is drawn" />
      </div>
    </div>
  `,
  data() {
    return {
      url: null,
      width: 0,
      height: 0,
      scale: 1, // pixels of the page per pixel of the image
      result: null,
      poses: [],
      error: null,
      busy: false,
      dragging: false,
      camera: null,
      facing: "environment",
      pointed: null,
      limit: this.threshold,
      shown: Object.fromEntries(Object.keys(NAMES).map((name) => [name, true])),
    };
  },
  created() {
    this.request = 0;
    this.opening = 0;
    this.partOf = this.parts.flatMap((part) => Array(part.stop - part.start).fill(part));
    this.observer = new ResizeObserver(() => this.measure());
  },
  mounted() {
    if (this.picture) this.show();
  },
  beforeUnmount() {
    this.observer.disconnect();
    this.closeCamera();
    this.release();
  },
  watch: {
    picture() {
      this.show();
    },
  },
  computed: {
    accepts() {
      return this.picture === null || this.picture === undefined;
    },
    toggles() {
      const box = { name: "box", colour: "var(--box)" };
      return [...this.parts, box].map((part) => ({ ...part, label: NAMES[part.name] }));
    },
    viewBox() {
      return `-0.5 -0.5 ${this.width} ${this.height}`; // (0, 0) is the centre of the upper left pixel
    },
    frameStyle() {
      if (!this.width) return { visibility: "hidden" };
      return {
        aspectRatio: `${this.width} / ${this.height}`,
        width: `min(100%, calc(var(--stage-height) * ${this.width / this.height}))`,
      };
    },
    drawn() {
      return this.poses.map((pose, index) => {
        const size = Math.max(pose.box.width, pose.box.height) * this.scale; // on the page
        const unit = Math.min(1.6, Math.max(0.5, size / 300)) / this.scale;
        const points = pose.keypoints.map((point, i) => {
          const part = this.partOf[i];
          const visible = this.shown[part.name] && point.confidence >= this.limit;
          const r = (LARGE.has(part.name) ? 3.2 : 2) * unit;
          return { ...point, part: part.name, colour: part.colour, r, visible };
        });
        const limbs = this.edges
          .map(([a, b]) => ({ a: points[a], b: points[b] }))
          .filter((limb) => limb.a.visible && limb.b.visible)
          .map((limb) => ({ ...limb, key: `${limb.a.name}-${limb.b.name}`, colour: limb.b.colour, part: limb.b.part }));
        return { index, unit, limbs, box: pose.box, confidence: pose.confidence, points: points.filter((p) => p.visible) };
      });
    },
    caption() {
      if (this.pointed) {
        const { person, point } = this.pointed;
        const place = `${point.x.toFixed(1)}, ${point.y.toFixed(1)}`;
        return `Person ${person + 1}: ${point.name.replaceAll("_", " ")}, confidence ${point.confidence.toFixed(2)}, at ${place}`;
      }
      if (!this.result) return "";
      const count = this.poses.length;
      const persons = count === 0 ? "No person found" : count === 1 ? "1 person" : `${count} persons`;
      const facts = [persons, `${this.width} × ${this.height} pixels`];
      const timing = this.result.timing;
      if (timing) facts.push(`inference ${timing.inference_ms.toFixed(0)} ms`);
      if (this.result.model_version) facts.push(`model ${this.result.model_version}`);
      const caption = facts.join(" · ");
      return count === 0 && this.result.notice ? `${caption}. ${this.result.notice}` : caption;
    },
  },
  methods: {
    // ---------------------------------------------------------------- images, as they come
    chosen(event) {
      const [file] = event.target.files;
      event.target.value = ""; // so that the same file can be chosen again
      if (file) this.detect(file);
    },
    drop(event) {
      this.dragging = false;
      if (!this.accepts) return;
      const [file] = event.dataTransfer.files;
      if (file) this.detect(file);
      else this.error = "What was dropped is no file. Save the image first, then drop it.";
    },
    async showCard() {
      const response = await this.fetched(this.card);
      if (response) this.detect(await response.blob());
    },
    async detect(blob) {
      this.closeCamera();
      this.begin(URL.createObjectURL(blob));
      const form = new FormData();
      form.append("file", blob, "image");
      await this.answered("poses", { method: "POST", body: form });
    },
    async show() {
      this.begin(this.picture);
      if (this.picture) await this.answered(this.answer);
    },

    // ---------------------------------------------------------------- asking the node
    begin(url) {
      this.release();
      this.request += 1;
      Object.assign(this, { url, width: 0, height: 0, result: null, poses: [], error: null, pointed: null });
    },
    release() {
      if (this.url?.startsWith("blob:")) URL.revokeObjectURL(this.url);
    },
    async answered(address, options) {
      const request = this.request;
      this.busy = true;
      const response = await this.fetched(address, options);
      const result = await response?.json().catch(() => null);
      if (request !== this.request) return; // another image has come
      this.busy = false;
      if (!result) return;
      this.result = result;
      this.poses = result.poses;
      this.width = result.image.width;
      this.height = result.image.height;
      if (!this.url) this.error = "The node reads this image, but the browser cannot show it.";
      this.$nextTick(this.measure);
    },
    async fetched(address, options) {
      const request = this.request;
      let error = "The node does not answer. Is it running?";
      try {
        const response = await fetch(address, options);
        if (response.ok) return response;
        const body = await response.json().catch(() => ({}));
        error = typeof body.detail === "string" ? sentence(body.detail) : `The node answers with status ${response.status}.`;
      } catch {
        // the network's errors say nothing that helps
      }
      if (request === this.request) this.error = error;
      return null;
    },

    // ---------------------------------------------------------------- the image on the page
    loaded(event) {
      if (!this.width) {
        this.width = event.target.naturalWidth;
        this.height = event.target.naturalHeight;
      }
      this.$nextTick(this.measure);
    },
    unreadable() {
      this.release();
      this.url = null;
      this.error ??= this.busy ? null : "The browser cannot show this image.";
    },
    measure() {
      const frame = this.$refs.frame;
      if (!frame) return;
      this.observer.observe(frame);
      if (frame.clientWidth && this.width) this.scale = frame.clientWidth / this.width;
    },

    // ---------------------------------------------------------------- camera
    async openCamera(facing) {
      if (!navigator.mediaDevices?.getUserMedia) {
        this.$refs.shot.click(); // not a secure address (https or localhost): the phone's own camera app
        return;
      }
      this.error = null;
      this.closeCamera();
      const opening = this.opening;
      try {
        const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
        const camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, ...size } });
        if (opening !== this.opening) {
          camera.getTracks().forEach((track) => track.stop()); // it is not wanted any more
          return;
        }
        this.camera = camera;
        this.$refs.video.srcObject = camera;
      } catch (error) {
        if (opening !== this.opening) return;
        const reasons = {
          NotAllowedError: "The browser may not use the camera. Allow it in the browser's settings for this address.",
          NotFoundError: "This device has no camera.",
          NotReadableError: "Another program uses the camera.",
        };
        this.error = reasons[error.name] ?? `The camera cannot be used: ${error.message}`;
      }
    },
    turnCamera() {
      this.facing = this.facing === "user" ? "environment" : "user";
      this.openCamera(this.facing);
    },
    closeCamera() {
      this.opening += 1;
      this.camera?.getTracks().forEach((track) => track.stop());
      this.camera = null;
    },
    shoot() {
      const video = this.$refs.video;
      if (!video.videoWidth) return; // no picture has come yet
      const canvas = document.createElement("canvas");
      canvas.width = video.videoWidth;
      canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => this.detect(blob), "image/jpeg", 0.95);
    },
  },
};

function sentence(text) {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}
