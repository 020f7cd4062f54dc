{{/* Names, labels and images. */}}

{{- define "lorapar.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* 38 characters, because what is appended needs the rest. A longer name is cut, and what was cut off stands in it as a
digest: two releases whose names begin alike do not take each other's resources. */}}
{{- define "lorapar.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name (include "lorapar.name" .)) (contains (include "lorapar.name" .) .Release.Name) -}}
{{- end -}}
{{- include "lorapar.shortened" (list $name 38) -}}
{{- end }}

{{/* (list NAME LENGTH) */}}
{{- define "lorapar.shortened" -}}
{{- $name := first . -}}
{{- $length := last . -}}
{{- if gt (len $name) (int $length) -}}
{{- printf "%s-%s" (trunc (int (sub $length 9)) $name | trimSuffix "-" | trimSuffix ".") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels that select pods: immutable in Deployments and StatefulSets, so nothing that changes with a version. */}}
{{- define "lorapar.releaseSelector" -}}
app.kubernetes.io/name: {{ include "lorapar.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Of one component: (dict "root" $ "component" "serving"). */}}
{{- define "lorapar.selectorLabels" -}}
{{ include "lorapar.releaseSelector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "lorapar.labels" -}}
{{- $own := fromYaml (include "lorapar.selectorLabels" .) -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- toYaml (merge $own (.root.Values.commonLabels | default dict)) -}}
{{- end }}

{{/* Metadata of a pod: (dict "root" $ "component" … "labels" MAP "annotations" MAP "job" true). What selects pods wins. A
pod that may never change (`fixed`) leaves out what a new version of the chart changes. */}}
{{- define "lorapar.podMetadata" -}}
{{- $labels := fromYaml (include (ternary "lorapar.selectorLabels" "lorapar.labels" (default false .fixed)) .) -}}
{{- $jobs := ternary (.root.Values.jobs | default dict) dict (default false .job) -}}
{{- $labels = merge $labels (.labels | default dict) ($jobs.labels | default dict) (.root.Values.podLabels | default dict) (.root.Values.commonLabels | default dict) -}}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with merge dict (.annotations | default dict) ($jobs.annotations | default dict) (.root.Values.podAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image by its key under `images`: (dict "root" $ "image" "client"). */}}
{{- define "lorapar.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- $name := printf "%s/%s" (.root.Values.images.registry | default (.root.Values.global | default dict).imageRegistry | default $image.registry) $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "lorapar.runnerServiceAccount" -}}
{{- .Values.pipeline.serviceAccount.name | default (printf "%s-runner" (include "lorapar.fullname" .)) -}}
{{- end }}

{{- define "lorapar.servingServiceAccount" -}}
{{- .Values.serving.serviceAccount.name | default (printf "%s-serving" (include "lorapar.fullname" .)) -}}
{{- end }}

{{- define "lorapar.uiServiceAccount" -}}
{{- .Values.ui.serviceAccount | default (printf "%s-ui" (include "lorapar.fullname" .)) -}}
{{- end }}

{{/* The ServiceAccount whose workload identity a pod without its own account uses for the store: the runs', else the servers'; empty where keys are in a Secret. */}}
{{- define "lorapar.storeIdentity" -}}
{{- if not (include "lorapar.objectStoreSecret" .) -}}
{{- if and .Values.pipeline.enabled (or .Values.pipeline.serviceAccount.create .Values.pipeline.serviceAccount.name) -}}
serviceAccountName: {{ include "lorapar.runnerServiceAccount" . }}
{{- else if and .Values.serving.enabled (or .Values.serving.serviceAccount.create .Values.serving.serviceAccount.name) -}}
serviceAccountName: {{ include "lorapar.servingServiceAccount" . }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "lorapar.objectStoreName" -}}
{{- printf "%s-object-store" (include "lorapar.fullname" .) -}}
{{- end }}

{{/* Secret with the object store's keys; empty where workload identity is used. */}}
{{- define "lorapar.objectStoreSecret" -}}
{{- if .Values.objectStore.existingSecret -}}
{{- .Values.objectStore.existingSecret -}}
{{- else if .Values.objectStore.development.enabled -}}
{{- include "lorapar.objectStoreName" . -}}
{{- end -}}
{{- end }}

{{- define "lorapar.objectStoreEndpoint" -}}
{{- if .Values.objectStore.development.enabled -}}
{{- printf "http://%s.%s.svc.%s:9000" (include "lorapar.objectStoreName" .) .Release.Namespace .Values.clusterDomain -}}
{{- else -}}
{{- .Values.objectStore.endpoint -}}
{{- end -}}
{{- end }}

{{- define "lorapar.registryAddress" -}}
{{- .Values.objectStore.registry | default (printf "%s/registry" (trimSuffix "/" .Values.objectStore.address)) -}}
{{- end }}

{{- define "lorapar.bucket" -}}
{{- .Values.objectStore.address | trimPrefix "s3://" | splitList "/" | first -}}
{{- end }}

{{/* Refuse settings that contradict each other, by name. */}}
{{- define "lorapar.check" -}}
{{- $store := .Values.objectStore -}}
{{- if and .Values.caBundle.configMap .Values.caBundle.secret -}}
{{- fail "caBundle: give configMap or secret, not both; put all authorities into one of them" -}}
{{- end -}}
{{- if and $store.caBundle.configMap (or .Values.caBundle.secret (and .Values.caBundle.configMap (or (ne .Values.caBundle.configMap $store.caBundle.configMap) (ne .Values.caBundle.entry $store.caBundle.entry)))) -}}
{{- fail "objectStore.caBundle: names another ConfigMap or entry than caBundle; both are the same value, give caBundle alone" -}}
{{- end -}}
{{- if and $store.createBucket (hasPrefix "s3://arn:" $store.address) -}}
{{- fail "objectStore.createBucket: an access point (objectStore.address) has its bucket already; set it to false" -}}
{{- end -}}
{{- if and $store.development.enabled $store.endpoint -}}
{{- fail "objectStore.endpoint: leave it empty when objectStore.development.enabled is true, or switch the development server off" -}}
{{- end -}}
{{- if and .Values.serving.enabled (not .Values.serving.model) -}}
{{- fail "serving.model: name the base model when serving.enabled is true" -}}
{{- end -}}
{{- if and .Values.teachers.enabled (not .Values.teachers.models) -}}
{{- fail "teachers.models: list at least one teacher when teachers.enabled is true" -}}
{{- end -}}
{{- if and .Values.pipeline.enabled .Values.pipeline.kueue.enabled (not .Values.pipeline.kueue.clusterQueue) -}}
{{- fail "pipeline.kueue.clusterQueue: name the ClusterQueue when pipeline.kueue.enabled is true" -}}
{{- end -}}
{{- if and .Values.serving.enabled .Values.serving.capture.enabled (not .Values.serving.capture.name) -}}
{{- fail "serving.capture.name: name the capture when serving.capture.enabled is true" -}}
{{- end -}}
{{- if and .Values.serving.ingress.enabled (not .Values.serving.ingress.host) -}}
{{- fail "serving.ingress.host: name the host when serving.ingress.enabled is true" -}}
{{- end -}}
{{- if and .Values.serving.gateway.enabled (not .Values.serving.gateway.name) -}}
{{- fail "serving.gateway.name: name the Gateway when serving.gateway.enabled is true" -}}
{{- end -}}
{{- if and .Values.serving.autoscaling.enabled (gt (int .Values.serving.autoscaling.minReplicas) (int .Values.serving.autoscaling.maxReplicas)) -}}
{{- fail "serving.autoscaling.minReplicas: must not exceed serving.autoscaling.maxReplicas" -}}
{{- end -}}
{{- include "lorapar.checkExtra" (dict "root" . "where" "") -}}
{{- include "lorapar.checkExtra" (dict "root" . "settings" .Values.jobs "where" "jobs.") -}}
{{- include "lorapar.checkExtra" (dict "root" . "settings" .Values.serving "where" "serving.") -}}
{{- end }}

{{/* Port of an http(s) address. */}}
{{- define "lorapar.portOf" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end }}

{{/* Ports of the object store, including the endpoint's own, as a JSON array. */}}
{{- define "lorapar.objectStorePorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.objectStorePorts -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- with .Values.objectStore.endpoint -}}
{{- $ports = append $ports (include "lorapar.portOf" . | int) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}

{{/* Namespace of the object store where its endpoint is a Service of the cluster (NAME.NAMESPACE, or NAME.NAMESPACE.svc…). */}}
{{- define "lorapar.objectStoreNamespace" -}}
{{- with .Values.objectStore.endpoint -}}
{{- $labels := splitList "." (index (splitList ":" (urlParse .).host) 0) -}}
{{- if or (eq (len $labels) 2) (and (gt (len $labels) 2) (eq (index $labels 2) "svc")) -}}
{{- index $labels 1 -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Ports of the proxies that extraEnv names, as a JSON array. */}}
{{- define "lorapar.proxyPorts" -}}
{{- $ports := list -}}
{{- range .Values.extraEnv -}}
{{- if and (has (upper .name) (list "HTTP_PROXY" "HTTPS_PROXY" "ALL_PROXY")) .value -}}
{{- $url := ternary .value (printf "http://%s" .value) (contains "://" .value) -}}
{{- $ports = append $ports (include "lorapar.portOf" $url | int) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}
