// A Slack payload as Slack draws it. Everything becomes text nodes and elements; no markup is ever parsed.

const EMOJI = {
  alarm_clock: "⏰", arrow_down: "⬇️", arrow_right: "➡️", arrow_up: "⬆️", ballot_box_with_check: "☑️", bar_chart: "📊",
  bell: "🔔", black_circle: "⚫", boom: "💥", bulb: "💡", calendar: "📆", chart_with_downwards_trend: "📉",
  chart_with_upwards_trend: "📈", clipboard: "📋", clock3: "🕒", computer: "💻", construction: "🚧", dart: "🎯",
  email: "✉️", envelope: "✉️", exclamation: "❗", eyes: "👀", file_cabinet: "🗄️", fire: "🔥", floppy_disk: "💾",
  gear: "⚙️", green_heart: "💚", grey_exclamation: "❕", hammer_and_wrench: "🛠️", heavy_check_mark: "✔️",
  heavy_exclamation_mark: "❗", hourglass: "⌛", hourglass_flowing_sand: "⏳", ice_cube: "🧊", information_source: "ℹ️",
  large_blue_circle: "🔵", large_green_circle: "🟢", large_orange_circle: "🟠", large_red_circle: "🔴",
  large_yellow_circle: "🟡", link: "🔗", loudspeaker: "📢", mag: "🔍", memo: "📝", minibus: "🚐", moon: "🌔",
  mute: "🔇", no_bell: "🔕", no_entry: "⛔", octagonal_sign: "🛑", ok: "🆗", package: "📦", pushpin: "📌",
  question: "❓", red_circle: "🔴", repeat: "🔁", rotating_light: "🚨", round_pushpin: "📍", satellite: "🛰️",
  snowflake: "❄️", sos: "🆘", speech_balloon: "💬", stopwatch: "⏱️", tada: "🎉", telephone_receiver: "📞",
  thermometer: "🌡️", truck: "🚚", articulated_lorry: "🚛", warning: "⚠️", white_check_mark: "✅", white_circle: "⚪",
  wrench: "🔧", x: "❌", zap: "⚡", zzz: "💤", "+1": "👍", thumbsup: "👍", "-1": "👎", wave: "👋", robot_face: "🤖",
};
const NAMED_COLOURS = { good: "#2eb67d", warning: "#daa038", danger: "#a30200" };
const MENTIONS = { "!channel": "@channel", "!here": "@here", "!everyone": "@everyone" };

// A star or an underscore formats only between what is no letter, in Hangul too: "*11건*이" stays as it is.
const around = (mark) => `(?<![\\p{L}\\p{N}${mark}])${mark}(?=[^\\s${mark}])(`
  + `[^${mark}\\n]*[^\\s${mark}])${mark}(?![\\p{L}\\p{N}${mark}])`;
const INLINE = new RegExp(
  [
    "```\\n?([\\s\\S]+?)\\n?```", "`([^`\\n]+)`", "<([^<>\\n]+)>",
    around("\\*"), around("_"), around("~"), ":([a-z0-9_+-]+):",
  ].join("|"),
  "gu",
);

export function element(name, classes = "", ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function link(url, ...children) {
  if (!/^(https?:\/\/|mailto:|tel:)/i.test(url)) return element("span", "", ...children);
  const made = element("a", "", ...children);
  made.href = url;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

const unescape = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
const emoji = (name) => EMOJI[name.split("::")[0]] ?? `:${name}:`;
const plain = (text) => unescape(String(text)).replace(/:([a-z0-9_+-]+):/g, (_, name) => emoji(name));

function bracketed(inside) {
  const bar = inside.indexOf("|");
  const target = unescape(bar < 0 ? inside : inside.slice(0, bar));
  const label = bar < 0 ? "" : plain(inside.slice(bar + 1));
  if (target.startsWith("!date^")) return document.createTextNode(label);
  if (target.startsWith("!")) return element("span", "mention loud", MENTIONS[target] ?? (label || target));
  if (target.startsWith("@")) return element("span", "mention", label || target);
  if (target.startsWith("#")) return element("span", "mention", `#${label || target.slice(1)}`);
  return link(target, label || target);
}

function inline(text) {
  const made = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    made.append(unescape(text.slice(end, match.index)));
    end = match.index + match[0].length;
    const [, block, code, brackets, bold, italic, strike, shortcode] = match;
    if (block !== undefined) made.append(element("pre", "", unescape(block)));
    else if (code !== undefined) made.append(element("code", "", unescape(code)));
    else if (brackets !== undefined) made.append(bracketed(brackets));
    else if (bold !== undefined) made.append(element("b", "", inline(bold)));
    else if (italic !== undefined) made.append(element("i", "", inline(italic)));
    else if (strike !== undefined) made.append(element("s", "", inline(strike)));
    else made.append(emoji(shortcode));
  }
  made.append(unescape(text.slice(end)));
  return made;
}

export function mrkdwn(text) {
  const made = document.createDocumentFragment();
  const parts = String(text ?? "").split(/((?:^(?:&gt;|>).*(?:\n|$))+)/m);
  for (const part of parts) {
    if (/^(&gt;|>)/.test(part)) {
      made.append(element("blockquote", "", inline(part.replace(/^(?:&gt;|>) ?/gm, "").replace(/\n$/, ""))));
    } else if (part) made.append(inline(part));
  }
  return made;
}

const composed = (object) => object?.type === "mrkdwn" ? mrkdwn(object.text) : document.createTextNode(plain(object?.text ?? ""));
const list = (value) => Array.isArray(value) ? value.filter((one) => one && typeof one === "object") : [];

function pressable(one) {
  const label = composed(one.text ?? { text: one.alt_text ?? one.type });
  const made = one.url ? link(one.url, label) : element("span", "", label);
  made.classList.add("button", ...(["primary", "danger"].includes(one.style) ? [one.style] : []));
  return made;
}

// Pictures lie elsewhere and are not fetched: their words stand for them.
const picture = (one) => element("span", "picture", `🖼 ${one.alt_text ?? ""}`);

function block(one) {
  switch (one.type) {
    case "header": return element("h3", "", plain(one.text?.text ?? ""));
    case "divider": return document.createElement("hr");
    case "section": {
      const fields = list(one.fields).map((field) => element("div", "field", composed(field)));
      const made = element("div", "section", one.text ? element("div", "text", composed(one.text)) : null,
        fields.length ? element("div", "fields", ...fields) : null);
      if (one.accessory) made.append(one.accessory.type === "image" ? picture(one.accessory) : pressable(one.accessory));
      return made;
    }
    case "context":
      return element("div", "context", ...list(one.elements).map((part) =>
        part.type === "image" ? picture(part) : element("span", "", composed(part))));
    case "actions": return element("div", "buttons", ...list(one.elements).map(pressable));
    case "image": return element("div", "", picture(one));
    case "markdown": return element("div", "text", plain(one.text ?? ""));
    case "rich_text": return element("div", "text", ...list(one.elements).map(rich));
    default: return element("div", "context", `[${one.type}]`);
  }
}

function rich(one) {
  if (one.type === "text") return element(one.style?.bold ? "b" : one.style?.italic ? "i" : one.style?.code ? "code" : "span", "", one.text ?? "");
  if (one.type === "link") return link(one.url ?? "", one.text ?? one.url ?? "");
  if (one.type === "emoji") return document.createTextNode(emoji(one.name ?? ""));
  const parts = list(one.elements).map(rich);
  if (one.type === "rich_text_list") return element(one.style === "ordered" ? "ol" : "ul", "", ...parts.map((part) => element("li", "", part)));
  const names = { rich_text_quote: "blockquote", rich_text_preformatted: "pre" };
  return element(names[one.type] ?? "div", "", ...parts);
}

function attachment(one, clock) {
  const made = element("div", "attachment");
  const colour = NAMED_COLOURS[one.color] ?? (/^#?[0-9a-f]{6}$/i.test(one.color ?? "") ? `#${one.color.replace("#", "")}` : "#ddd");
  made.style.borderLeftColor = colour;
  if (one.author_name) made.append(element("div", "author", plain(one.author_name)));
  if (one.title) made.append(element("div", "title", one.title_link ? link(one.title_link, plain(one.title)) : plain(one.title)));
  if (one.text) made.append(element("div", "text", mrkdwn(one.text)));
  made.append(...list(one.blocks).map(block));
  const fields = list(one.fields);
  if (fields.length) {
    made.append(element("div", "fields", ...fields.map((field) =>
      element("div", field.short ? "field" : "field wide", element("b", "", plain(field.title ?? "")), element("div", "", mrkdwn(field.value))))));
  }
  if (list(one.actions).length) made.append(element("div", "buttons", ...list(one.actions).map((action) => pressable({ ...action, text: { text: action.text } }))));
  if (!made.hasChildNodes() && one.fallback) made.append(element("div", "text", plain(one.fallback)));
  const footer = [one.footer && plain(one.footer), one.ts && clock(new Date(one.ts * 1000))].filter(Boolean);
  if (footer.length) made.append(element("div", "footer", footer.join(" | ")));
  return one.pretext ? element("div", "", element("div", "text", mrkdwn(one.pretext)), made) : made;
}

export function message({ payload, hook, time }, clock) {
  const blocks = list(payload.blocks);
  const icon = payload.icon_emoji ? plain(payload.icon_emoji) : "❄";
  const body = element("div", "body",
    element("div", "who", element("b", "", plain(payload.username ?? "콜드체인 모니터")), element("span", "app", "앱"), element("time", "", clock(new Date(time)))));
  if (blocks.length) body.append(...blocks.map(block));
  else if (payload.text) body.append(element("div", "text", payload.mrkdwn === false ? plain(payload.text) : mrkdwn(payload.text)));
  body.append(...list(payload.attachments).map((one) => attachment(one, clock)));
  const made = element("article", "message", element("div", "icon", icon), body);
  made.title = `/services/${hook}`;
  return made;
}
