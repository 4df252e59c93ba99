// The pages need no script; this lets them be installed as an app, if the browser trusts the certificate.
if ("serviceWorker" in navigator) navigator.serviceWorker.register("/sw.js").catch(() => {});
