{{- define "millpond.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "millpond.labels" -}}
app.kubernetes.io/name: millpond
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Labels by which one part's pods are found; call with (list . "operator"). */}}
{{- define "millpond.selector" -}}
app.kubernetes.io/name: millpond
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "millpond.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Who and where a process is; the names are read by every main.py. */}}
{{- define "millpond.identity" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: LOG_LEVEL, value: {{ .Values.logLevel | quote }}}
{{- end }}

{{/*
Who of several sidecars acts. One that could not renew its lease exits, so a slow API server must not be enough for that;
a lost node takes 40 s to be seen, and by then the lease has run out as well.
*/}}
{{- define "millpond.election" -}}
- --leader-election
- --leader-election-namespace={{ .Release.Namespace }}
- --leader-election-lease-duration=40s
- --leader-election-renew-deadline=30s
- --leader-election-retry-period=5s
{{- end }}

{{/* A container that needs nothing of the node. */}}
{{- define "millpond.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "millpond.podConfined" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A lost node's taints are tolerated for a while only; call with (list seconds extra-tolerations). */}}
{{- define "millpond.moveAfter" -}}
{{- range list "node.kubernetes.io/unreachable" "node.kubernetes.io/not-ready" }}
- {key: {{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ index $ 0 }}}
{{- end }}
{{- /* Of kubectl millpond shutdown: nobody else would take it off again. */}}
- {key: millpond.io/unavailable, operator: Equal, value: Shutdown, effect: NoSchedule}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The account's token, in the place where every client looks for it; mounted only by containers that need it. */}}
{{- define "millpond.tokenVolume" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{- define "millpond.tokenMount" -}}
- {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
