{{/* The user's volumes and mounts: those of the release, then a part's own. */}}

{{/* (dict "root" $ "settings" SETTINGS) */}}
{{- define "lorapar.extraVolumes" -}}
{{- with concat (.root.Values.extraVolumes | default list) ((.settings | default dict).extraVolumes | default list) }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "settings" SETTINGS) */}}
{{- define "lorapar.extraMounts" -}}
{{- with concat (.root.Values.extraVolumeMounts | default list) ((.settings | default dict).extraVolumeMounts | default list) }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/* The API server would refuse the same in an object that nobody reads; here by the value's name:
(dict "root" $ "settings" SETTINGS "where" PREFIX), the prefix with its dot. */}}
{{- define "lorapar.checkExtra" -}}
{{- $where := .where -}}
{{- $settings := .settings | default dict -}}
{{- $names := list -}}
{{- range concat (.root.Values.extraVolumes | default list) ($settings.extraVolumes | default list) -}}
{{- if has .name (list "base-models" "ca" "cache" "config" "data" "kubeflow-token" "scratch" "scripts" "shm" "tmp") -}}
{{- fail (printf "%sextraVolumes: %q is the name of a volume of the chart; give yours another one" $where .name) -}}
{{- end -}}
{{- if has .name $names -}}
{{- fail (printf "%sextraVolumes: two volumes of a pod are named %q; those of extraVolumes count for every pod" $where .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $taken := list "/cache" "/config" "/data" "/dev/shm" "/etc/lorapar/ca" "/scratch" "/scripts" "/tmp" "/var/run/secrets/kubeflow/pipelines" (trimSuffix "/" .root.Values.baseModels.mountPath) -}}
{{- $paths := list -}}
{{- range concat (.root.Values.extraVolumeMounts | default list) ($settings.extraVolumeMounts | default list) -}}
{{- $path := trimSuffix "/" .mountPath -}}
{{- if not (has .name $names) -}}
{{- fail (printf "%sextraVolumeMounts: no volume is named %q; add it to extraVolumes" $where .name) -}}
{{- end -}}
{{- if has $path $taken -}}
{{- fail (printf "%sextraVolumeMounts: the chart mounts something at %s; choose another mountPath" $where $path) -}}
{{- end -}}
{{- if has $path $paths -}}
{{- fail (printf "%sextraVolumeMounts: two mounts of a container are at %s" $where $path) -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- end }}
